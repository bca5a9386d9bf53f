-- What does the API read and write, beside the hot path?
--
-- What reads works in proportion to what it returns: lists walk from one destination that has something to
-- the next by index, and never over all of them. The planner settings are those of the other functions.

-- Registers a destination; with a key, once. Locks: the key's advisory lock, first, waited for: a twin at
-- the same moment then finds the key. A crash before the commit leaves nothing.
--
-- status: created; known (this key made that one); reused (the key came with another body).
create function orderly.create_destination(
    tenant text, url text, description text, headers bytea, on_exhausted text, max_retries integer,
    delay_seconds double precision, backoff double precision, timeout_seconds double precision,
    max_per_second double precision, max_queue_depth bigint, path text, key text, body_hash bytea)
    returns table (status text, id bigint, created_at timestamptz)
    language plpgsql as $$
#variable_conflict use_variable
declare
    known orderly.idempotency_keys;
    owner text := coalesce(tenant, '');
begin
    perform orderly.commit_durably();
    perform orderly.stay_fenced();
    if key is not null then
        perform set_config('lock_timeout', '2s', true);
        perform pg_advisory_xact_lock(orderly.idempotency_lock(concat_ws(e'\n', owner, path, key)));
        select * into known from orderly.idempotency_keys k
        where k.tenant = owner and k.path = path and k.key = key and k.created_at > clock_timestamp() - interval '24 hours';
        if found then
            status := case when known.body_hash = body_hash then 'known' else 'reused' end;
            id := (known.answer ->> 'id')::bigint;
            created_at := (known.answer ->> 'created_at')::timestamptz;
            return next;
            return;
        end if;
    end if;
    created_at := clock_timestamp();
    with destination as (
        insert into orderly.destinations as d (
            tenant, url, description, headers, on_exhausted, max_retries, delay_seconds, backoff, timeout_seconds,
            max_per_second, max_queue_depth, created_at, updated_at)
        values (tenant, url, description, headers, on_exhausted, max_retries, delay_seconds, backoff, timeout_seconds,
                max_per_second, max_queue_depth, created_at, created_at)
        returning d.id
    ), queue as (
        insert into orderly.queues (destination_id, tenant, max_depth) select n.id, tenant, max_queue_depth from destination n
    ), claim as (
        insert into orderly.claims (destination_id) select n.id from destination n
    )
    select n.id into id from destination n;
    if key is not null then
        insert into orderly.idempotency_keys as k (tenant, path, key, body_hash, answer, created_at)
        values (owner, path, key, body_hash, jsonb_build_object('id', id, 'created_at', created_at), created_at)
        on conflict on constraint idempotency_keys_pkey
        do update set body_hash = excluded.body_hash, answer = excluded.answer, created_at = excluded.created_at;
    end if;
    status := 'created';
    return next;
end
$$;

-- Replaces a destination's settings if nobody changed it since `expected`, its updated_at. Locks: the
-- queues row only when the depth changes, first, then the destination's, as resume and a removal do; waited for up to
-- 2 s (1 s for each, and behind another waiter it is two).
--
-- status: changed; stale (read it again); not_found.
create function orderly.change_destination(
    id bigint, expected timestamptz, url text, description text, headers bytea, on_exhausted text, max_retries integer,
    delay_seconds double precision, backoff double precision, timeout_seconds double precision,
    max_per_second double precision, max_queue_depth bigint)
    returns table (status text, updated_at timestamptz)
    language plpgsql as $$
#variable_conflict use_variable
begin
    perform set_config('lock_timeout', '1s', true);
    update orderly.queues q set max_depth = max_queue_depth
    where q.destination_id = id and q.max_depth is distinct from max_queue_depth
      and exists (select from orderly.destinations d where d.id = id and d.updated_at = expected);
    -- A change within the same microsecond still counts as one.
    update orderly.destinations d
    set url = url, description = description, headers = headers, on_exhausted = on_exhausted, max_retries = max_retries,
        delay_seconds = delay_seconds, backoff = backoff, timeout_seconds = timeout_seconds,
        max_per_second = max_per_second, max_queue_depth = max_queue_depth,
        updated_at = greatest(clock_timestamp(), expected + interval '1 microsecond')
    where d.id = id and d.updated_at = expected
    returning d.updated_at into updated_at;
    if found then
        status := 'changed';
        return next;
        return;
    end if;
    -- Another change came between: the depth must not stay changed alone.
    raise exception 'changed meanwhile' using errcode = 'serialization_failure';
exception when serialization_failure then
    status := case when exists (select from orderly.destinations d where d.id = id) then 'stale' else 'not_found' end;
    return next;
end
$$;

-- A destination's HMAC secret, sealed; null takes it away. Locks its row alone. A crash before the commit changes
-- nothing; after it, whoever claims the destination next reads it, also when nobody was told.
create function orderly.set_hmac_secret(id bigint, tenant text, secret bytea) returns boolean
    language plpgsql as $$
#variable_conflict use_variable
begin
    perform set_config('lock_timeout', '2s', true);
    update orderly.destinations d
    set hmac_secret = secret, updated_at = greatest(clock_timestamp(), d.updated_at + interval '1 microsecond')
    where d.id = id and (tenant is null or d.tenant = tenant);
    return found;
end
$$;

-- Where a queued message is: delivering is the head while a worker serves it and nothing makes it wait.
create function orderly.message_state(claim orderly.claims, state text, served boolean, head bigint, sequence bigint) returns text
    language sql stable return case
        when sequence = head and served and state = 'active' and not (claim).held
             and coalesce((claim).next_attempt_at <= clock_timestamp(), true) then 'delivering'
        when sequence = (claim).head_sequence and (claim).head_attempts > 0 then 'retrying'
        else 'queued'
    end;

-- What is queued, by destination, then sequence, after a place in that order. `alone` names one destination.
--
-- Walks the primary key of messages from one destination to the next; with a tenant, in turn with the
-- tenant's destinations. Within a queue it starts above the floor: what is below is dead, and under an old
-- snapshot reading over it costs seconds.
create function orderly.list_messages(tenant text, alone bigint, after_destination bigint, after_sequence bigint, most integer)
    returns table (destination_id bigint, sequence bigint, created_at timestamptz, expires_at timestamptz, content_type text,
                   headers jsonb, replay_of bigint, state text, attempts integer)
    language plpgsql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off
    as $$
#variable_conflict use_variable
declare
    at timestamptz := clock_timestamp();
    id bigint := coalesce(alone, after_destination);
    start bigint;
    mine bigint;
    claim orderly.claims;
    condition text;
    served boolean;
    head bigint;
    item record;
begin
    loop
        if alone is null then
            select m.destination_id into id from orderly.messages m where m.destination_id >= id order by m.destination_id limit 1;
            exit when not found;
            if tenant is not null then
                select d.id into mine from orderly.destinations d where d.tenant = tenant and d.id >= id order by d.id limit 1;
                exit when not found;
                if mine > id then
                    id := mine;
                    continue;
                end if;
            end if;
        end if;
        select d.state into condition from orderly.destinations d where d.id = id and (tenant is null or d.tenant = tenant);
        if found then
            select * into claim from orderly.claims c where c.destination_id = id;
            start := case when id = after_destination then after_sequence else 0 end;
            served := exists (select from orderly.workers w where w.id = claim.owner and orderly.is_alive(w.id));
            head := orderly.head(id);
            for item in
                select m.sequence, m.created_at, m.expires_at, m.content_type, m.headers, m.replay_of from orderly.messages m
                where m.destination_id = id and m.sequence > greatest(claim.floor, start) and m.expires_at > at
                order by m.sequence limit most
            loop
                destination_id := id;
                sequence := item.sequence;
                created_at := item.created_at;
                expires_at := item.expires_at;
                content_type := item.content_type;
                headers := item.headers;
                replay_of := item.replay_of;
                state := orderly.message_state(claim, condition, served, head, item.sequence);
                attempts := case when claim.head_sequence = item.sequence then claim.head_attempts else 0 end;
                return next;
                most := most - 1;
            end loop;
        end if;
        exit when alone is not null or most = 0;
        id := id + 1;
    end loop;
end
$$;

-- One message, wherever it is in its life; no row when it is unknown, deleted or forgotten. One snapshot,
-- so a message that ends meanwhile is found on one side or on the other.
create function orderly.find_message(destination bigint, wanted bigint, of_tenant text)
    returns table (state text, attempts integer, created_at timestamptz, expires_at timestamptz, content_type text,
                   headers jsonb, payload bytea, last_error text, replay_of bigint)
    language plpgsql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off
    as $$
#variable_conflict use_column
declare
    condition text;
    claim orderly.claims;
begin
    select d.state into condition from orderly.destinations d where d.id = destination and (of_tenant is null or d.tenant = of_tenant);
    if not found then
        return;
    end if;
    select * into claim from orderly.claims c where c.destination_id = destination;
    return query
    select case when m.expires_at <= clock_timestamp() then 'expired'
                else orderly.message_state(claim, condition,
                                           exists (select from orderly.workers w where w.id = claim.owner and orderly.is_alive(w.id)),
                                           orderly.head(destination), wanted) end,
           case when claim.head_sequence = wanted then claim.head_attempts else 0 end,
           m.created_at, m.expires_at, m.content_type, m.headers, m.payload,
           case when claim.head_sequence = wanted then claim.last_error end, m.replay_of
    from orderly.messages m where m.destination_id = destination and m.sequence = wanted;
    if found then
        return;
    end if;
    return query
    select e.outcome, e.attempts, e.created_at, e.expires_at, e.content_type, e.headers, e.payload, e.last_error, null::bigint
    from orderly.ends e where e.destination_id = destination and e.sequence = wanted;
    if found then
        return;
    end if;
    return query
    select 'delivered', a.number, null::timestamptz, null::timestamptz, k.content_type, k.headers, k.payload, null::text, null::bigint
    from orderly.attempts a
    left join orderly.kept k on k.destination_id = a.destination_id and k.sequence = a.sequence
    where a.destination_id = destination and a.sequence = wanted and a.delivered
    order by a.number desc limit 1;
end
$$;

-- Why a queue moves or does not. Counts what is queued: in proportion to its depth.
create function orderly.queue_state(destination bigint, of_tenant text)
    returns table (depth bigint, oldest_created_at timestamptz, state text, head bigint, attempts integer, last_error text,
                   next_attempt_at timestamptz, worker_id bigint, worker_host text, worker_since timestamptz)
    language plpgsql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off
    as $$
#variable_conflict use_column
declare
    condition text;
    claim orderly.claims;
    at timestamptz := clock_timestamp();
begin
    select d.state into condition from orderly.destinations d where d.id = destination and (of_tenant is null or d.tenant = of_tenant);
    if not found then
        return;
    end if;
    select * into claim from orderly.claims c where c.destination_id = destination;
    -- The last worker's row stays when it is killed; its lock does not.
    select w.id, w.host, claim.since into worker_id, worker_host, worker_since from orderly.workers w
    where w.id = claim.owner and orderly.is_alive(w.id);
    select count(*) into depth from orderly.messages m
    where m.destination_id = destination and m.sequence > claim.floor and m.expires_at > at;
    select m.sequence, m.created_at into head, oldest_created_at from orderly.messages m
    where m.destination_id = destination and m.sequence > claim.floor and m.expires_at > at order by m.sequence limit 1;
    attempts := 0;
    if head = claim.head_sequence then
        attempts := claim.head_attempts;
        last_error := claim.last_error;
        next_attempt_at := claim.next_attempt_at;
    end if;
    state := case
        when condition <> 'active' then condition
        when head is null then 'idle'
        when claim.held and head = claim.head_sequence then 'held'
        when next_attempt_at > at then 'backoff'
        when worker_id is not null then 'delivering'
        else 'idle'
    end;
    return next;
end
$$;

-- What has expired in a queue that nobody serves becomes dead letters at once, for whoever asks for them;
-- where a worker serves it, that is the worker's. Locks: the destination's, tried.
create function orderly.settle_expired(id bigint) returns void
    language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
#variable_conflict use_variable
begin
    if not exists (select from orderly.messages m where m.destination_id = id and m.brief and m.expires_at <= clock_timestamp())
       and not coalesce((select m.expires_at <= clock_timestamp() from orderly.messages m where m.destination_id = id
                and m.sequence > coalesce((select c.floor from orderly.claims c where c.destination_id = id), 0)
                order by m.sequence limit 1), false) then
        return;
    end if;
    if not pg_try_advisory_xact_lock(orderly.destination_lock(id)) then
        return;
    end if;
    if (select orderly.is_free(c.owner, null) from orderly.claims c where c.destination_id = id) then
        perform orderly.expire_queue(id, null, 1000);
    end if;
end
$$;

-- The messages given up on, by destination, then sequence; the walk is that of list_messages.
create function orderly.list_dead_letters(tenant text, alone bigint, after_destination bigint, after_sequence bigint, most integer)
    returns table (destination_id bigint, sequence bigint, outcome text, ended_at timestamptz, created_at timestamptz,
                   expires_at timestamptz, attempts integer, last_error text, content_type text, headers jsonb)
    language plpgsql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off
    as $$
#variable_conflict use_variable
declare
    id bigint := coalesce(alone, after_destination);
    mine bigint;
    item record;
begin
    loop
        if alone is null then
            select e.destination_id into id from orderly.ends e where e.destination_id >= id order by e.destination_id limit 1;
            exit when not found;
            if tenant is not null then
                select d.id into mine from orderly.destinations d where d.tenant = tenant and d.id >= id order by d.id limit 1;
                exit when not found;
                if mine > id then
                    id := mine;
                    continue;
                end if;
            end if;
        end if;
        if exists (select from orderly.destinations d where d.id = id and (tenant is null or d.tenant = tenant)) then
            for item in
                select e.* from orderly.ends e
                where e.destination_id = id and e.outcome <> 'skipped'
                  and e.sequence > case when id = after_destination then after_sequence else 0 end
                order by e.sequence limit most
            loop
                destination_id := id;
                sequence := item.sequence;
                outcome := item.outcome;
                ended_at := item.ended_at;
                created_at := item.created_at;
                expires_at := item.expires_at;
                attempts := item.attempts;
                last_error := item.last_error;
                content_type := item.content_type;
                headers := item.headers;
                return next;
                most := most - 1;
            end loop;
        end if;
        exit when alone is not null or most = 0;
        id := id + 1;
    end loop;
end
$$;

-- Queues dead letters again, oldest first, at the tail: `one`, or all, at most `most` and 32 MiB a call.
-- Each gets a day anew. Locks: the queues row, waited for up to 2 s (behind another waiter it is two locks); then rows of ends, which only a prune and a
-- second redrive take, and that waits at the queues row. A crash before the commit leaves all as it was.
--
-- status: queued; or, alone, unknown, disabled, full. No row: there was nothing to redrive.
create function orderly.redrive(destination bigint, of_tenant text, one bigint, most integer)
    returns table (status text, redriven_from bigint, sequence bigint, created_at timestamptz, expires_at timestamptz)
    language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off
    as $$
#variable_conflict use_column
declare
    queue orderly.queues;
    at timestamptz;
    chosen bigint[];
    room bigint;
begin
    perform orderly.commit_durably();
    perform orderly.stay_fenced();
    perform set_config('lock_timeout', '1s', true);
    select * into queue from orderly.queues q
    where q.destination_id = destination and (of_tenant is null or q.tenant = of_tenant) for no key update;
    if not found then
        return query select 'unknown', null::bigint, null::bigint, null::timestamptz, null::timestamptz;
        return;
    end if;
    at := clock_timestamp();
    chosen := array(
        select c.sequence from (
            select e.sequence, e.size, sum(e.size) over (order by e.sequence) as total from (
                select x.sequence, octet_length(x.payload) as size from orderly.ends x
                where x.destination_id = destination and x.outcome <> 'skipped' and (one is null or x.sequence = one)
                order by x.sequence limit most) e) c
        where c.total <= 33554432 or c.total = c.size
        order by c.sequence);
    if cardinality(chosen) = 0 then
        return;
    end if;
    if not queue.accepting then
        return query select 'disabled', null::bigint, null::bigint, null::timestamptz, null::timestamptz;
        return;
    end if;
    if queue.max_depth is not null then
        room := queue.max_depth - (select count(*) from (select from orderly.messages m where m.destination_id = destination
            and m.expires_at > at limit queue.max_depth) queued);
        if room <= 0 then
            return query select 'full', null::bigint, null::bigint, null::timestamptz, null::timestamptz;
            return;
        end if;
        chosen := chosen[1:least(room, most)];
    end if;
    return query
    with gone as materialized (
        delete from orderly.ends e using unnest(chosen) w (sequence)
        where e.destination_id = destination and e.sequence = w.sequence
        returning e.sequence, e.content_type, e.headers, e.payload
    ), numbered as materialized (
        select g.*, nextval('orderly.message_sequence') as given from (select * from gone order by sequence) g
    ), stored as (
        insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, headers, payload)
        select destination, n.given, at, at + interval '86400 s', false, n.content_type, n.headers, n.payload from numbered n
    )
    select 'queued', n.sequence, n.given, at, at + interval '86400 s' from numbered n order by n.given;
end
$$;

-- From the first message on it is known on which timeline numbers were given.
select orderly.fence();
