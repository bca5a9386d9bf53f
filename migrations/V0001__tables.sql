-- What Orderly keeps, and who may write it.
--
-- destinations  clients, through the API
-- queues        the producers' lock: locked on the hot path, never updated there
-- messages      what has not ended, and nothing else: inserted by producers, deleted by the holder
-- claims        the holder's row: written only by whoever has the destination's advisory lock
-- attempts      the log of tries, by day;  ends: what ended other than by delivery
--
-- There are no foreign keys between hot tables: each would lock a row for every message.

create schema if not exists orderly;

create table orderly.destinations (
    id               bigint generated always as identity primary key,
    tenant           text,
    url              text not null,
    description      text,
    headers          bytea not null,            -- JSON, sealed when a secrets key is set
    hmac_secret      bytea,                     -- sealed; null: no v1 signature
    state            text not null default 'active' check (state in ('active', 'paused', 'disabled')),
    on_exhausted     text not null default 'discard' check (on_exhausted in ('discard', 'hold')),
    max_retries      integer check (max_retries >= 0),   -- null: the worker's flags
    delay_seconds    double precision check (delay_seconds >= 0),
    backoff          double precision check (backoff >= 1),
    timeout_seconds  double precision not null default 30,
    max_per_second   double precision check (max_per_second > 0),
    max_queue_depth  bigint check (max_queue_depth > 0),
    created_at       timestamptz not null default clock_timestamp(),
    updated_at       timestamptz not null default clock_timestamp(),
    check ((max_retries is null) = (delay_seconds is null) and (max_retries is null) = (backoff is null))
);
create index destinations_by_tenant on orderly.destinations (tenant, id);
create index destinations_by_url on orderly.destinations using hash (url);

create table orderly.queues (
    destination_id   bigint primary key,
    tenant           text,
    accepting        boolean not null default true,
    max_depth        bigint
);

-- One counter for all: a counter in a row for each destination is a row updated for each message, and
-- under an old snapshot its versions cannot be pruned (32,000/s fell to 3,400/s; with this, 45,000 to
-- 42,000). It is drawn only under the queue's row lock, so within a destination it rises in commit order.
create sequence orderly.message_sequence cache 1;

create table orderly.messages (
    destination_id   bigint not null,
    sequence         bigint not null,
    created_at       timestamptz not null,
    expires_at       timestamptz not null,
    brief            boolean not null,          -- its ttl is shorter than the default: may expire before an older one
    content_type     text not null,
    headers          jsonb,                     -- null: none
    payload          bytea not null,
    replay_of        bigint,
    primary key (destination_id, sequence)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1,
        autovacuum_vacuum_cost_delay = 0);
create index messages_brief on orderly.messages (destination_id, expires_at) where brief;

-- Spends less time than pglz on bodies above 2 KB; a server built without it keeps its default.
do $$
begin
    alter table orderly.messages alter column payload set compression lz4;
exception when feature_not_supported then
    null;
end
$$;

create table orderly.claims (
    destination_id   bigint primary key,
    owner            bigint,                    -- workers.id; one that is not there counts as none
    last_owner       bigint,
    epoch            bigint not null default 0,
    since            timestamptz,
    floor            bigint not null default 0, -- every sequence up to this one has ended
    last_delivered   bigint not null default 0, -- exact when released in order; else see the log
    head_sequence    bigint,                    -- the message the next four speak of
    head_attempts    integer not null default 0,
    last_error       text,
    next_attempt_at  timestamptz,
    held             boolean not null default false,
    last_start_at    timestamptz                -- of a request, for max_per_second; exact when released in order
) with (fillfactor = 70);
create index claims_by_owner on orderly.claims (owner) where owner is not null;
create index claims_due on orderly.claims (next_attempt_at) where owner is null and next_attempt_at is not null;

-- What ended other than by delivery, beyond what was last delivered: for orderly-skipped. An entry may
-- stand for several messages, the last of which it names. Entries below the last delivered count no more.
create table orderly.skips (
    destination_id   bigint not null,
    sequence         bigint not null,
    count            bigint not null,
    primary key (destination_id, sequence)
);

-- Ranges by day are attached ahead of time; the default one takes what finds none.
create table orderly.attempts (
    destination_id   bigint not null,
    sequence         bigint not null,
    number           integer not null,
    at               timestamptz not null,
    delivered        boolean not null,
    status_code      smallint,
    error            text,
    duration_ms      integer not null,
    response         bytea                      -- the start of the answer; bytes, since an answer may hold a NUL
) partition by range (at);
create index attempts_by_message on orderly.attempts (destination_id, sequence, number);
create table orderly.attempts_default partition of orderly.attempts default;

create table orderly.ends (
    destination_id   bigint not null,
    sequence         bigint not null,
    outcome          text not null check (outcome in ('expired', 'exhausted', 'skipped')),
    ended_at         timestamptz not null default clock_timestamp(),
    created_at       timestamptz not null,
    expires_at       timestamptz not null,
    attempts         integer not null,
    last_error       text,
    content_type     text not null,
    headers          jsonb,
    payload          bytea not null,
    primary key (destination_id, sequence)
);
create index ends_by_time on orderly.ends (ended_at);

-- Delivered bodies, for replay, where a worker was told to keep them.
create table orderly.kept (
    destination_id   bigint not null,
    sequence         bigint not null,
    delivered_at     timestamptz not null,
    content_type     text not null,
    headers          jsonb,
    payload          bytea not null,
    primary key (destination_id, sequence)
);
create index kept_by_time on orderly.kept (delivered_at);

create sequence orderly.worker_ids cache 1;
create table orderly.workers (
    id               bigint primary key,        -- one session; its advisory lock is held before the row appears
    process          text not null,             -- what stays when the session is made anew
    host             text not null,
    pid              integer not null,
    kind             text not null check (kind in ('general', 'pinned', 'once')),
    destination_id   bigint,                    -- of a pinned one
    since            timestamptz not null default clock_timestamp(),
    incarnation      timestamptz                -- of Postgres, in which it joined: its `since` in incarnation, as a name
);

-- What a client asks of a holder: to the destination, not to a worker.
create table orderly.requests (
    id               bigint generated always as identity primary key,
    destination_id   bigint not null,
    kind             text not null,
    arguments        jsonb not null,
    deadline         timestamptz not null,
    state            text not null default 'pending' check (state in ('pending', 'done')),
    answer           jsonb
);
create index requests_pending on orderly.requests (destination_id) where state = 'pending';

create table orderly.idempotency_keys (
    tenant           text not null,             -- '' for none
    path             text not null,
    key              text not null,
    body_hash        bytea not null,
    answer           jsonb not null,
    created_at       timestamptz not null default clock_timestamp(),
    primary key (tenant, path, key)
);
create index idempotency_keys_by_time on orderly.idempotency_keys (created_at);

-- Destinations that are gone and whose messages are still being removed.
create table orderly.removals (destination_id bigint primary key);

create table orderly.signing_keys (
    id               text primary key,
    secret           bytea not null,
    created_at       timestamptz not null default clock_timestamp()
);

-- A crash or a promotion empties an unlogged table: an empty one, or another start time, tells that all
-- locks vanished at once. cluster is logged, so it knows the timeline it last wrote on.
create unlogged table orderly.incarnation (started timestamptz not null, since timestamptz not null);
create table orderly.cluster (
    only_row         boolean primary key default true check (only_row),
    timeline         text,
    epoch_base       bigint not null default 0
);
insert into orderly.cluster default values;
