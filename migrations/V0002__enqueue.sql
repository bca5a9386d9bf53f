-- How does a message get its place, and who is told?

-- One bigint space of advisory locks, shared with the application: a tag, then the number.
create function orderly.destination_lock(id bigint) returns bigint
    language sql immutable parallel safe return (79::bigint << 56) | id;
create function orderly.worker_lock(id bigint) returns bigint
    language sql immutable parallel safe return (80::bigint << 56) | id;
-- Whether its session lives: only that has the lock. Holds a shared one for the transaction when it does not, which
-- keeps nobody from anything: whoever else looks takes a shared one, too, and ids are not used twice.
create function orderly.is_alive(worker bigint) returns boolean
    language sql return not pg_try_advisory_xact_lock_shared(orderly.worker_lock(worker));
-- 81 << 56 is the migrators'. Held by a worker's second connection, over which something is said each second.
create function orderly.pulse_lock(id bigint) returns bigint
    language sql immutable parallel safe return (83::bigint << 56) | id;
create function orderly.idempotency_lock(name text) returns bigint
    language sql immutable parallel safe return (82::bigint << 56) | (hashtextextended(name, 0) & ((1::bigint << 56) - 1));

-- All locks vanish at once when Postgres restarts, crashes or is promoted; this notes it, once.
-- Locks: the row of cluster, first and alone. A crash before its commit leaves it to the next caller.
create function orderly.fence() returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    before orderly.cluster;
    now_on text;
begin
    select * into before from orderly.cluster for update;
    if exists (select from orderly.incarnation i where i.started = pg_postmaster_start_time()) then
        return;
    end if;
    now_on := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
    if before.timeline is not null and before.timeline <> now_on then
        -- What the old primary gave out and did not replicate must not be given out again (G1).
        perform setval('orderly.message_sequence', greatest(
            (select last_value from orderly.message_sequence), (extract(epoch from clock_timestamp()) * 1000000)::bigint));
        perform setval('orderly.worker_ids', (select last_value from orderly.worker_ids) + 1000000);
        update orderly.cluster set epoch_base = greatest(before.epoch_base, (select max(epoch) from orderly.claims)) + 1000000;
    end if;
    update orderly.cluster set timeline = now_on where timeline is distinct from now_on;
    delete from orderly.incarnation;
    insert into orderly.incarnation (started, since) values (pg_postmaster_start_time(), clock_timestamp());
end
$$;

-- A 201 is durable, whatever the server's default; a stronger setting is kept.
create function orderly.commit_durably() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('synchronous_commit') in ('off', 'local') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
end
$$;

-- Before numbers are drawn. For calls that are transactions of their own: a fence is seen and its row let go with the
-- commit, and until then every process of Orderly waits for it.
create function orderly.stay_fenced() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from orderly.incarnation i where i.started = pg_postmaster_start_time()) then
        perform orderly.fence();
    end if;
end
$$;

-- The same inside an application's transaction, which may last. After a restart only Orderly's own processes need the
-- fence (G3); after a failover the numbers need it, so that nothing is queued before it: the first worker, or the
-- first post through the API, puts it up.
create function orderly.check_fence() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from orderly.incarnation i where i.started = pg_postmaster_start_time())
       and exists (select from orderly.cluster c where c.timeline <> substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)) then
        raise exception 'the database has failed over, and no process of Orderly has been there since'
            using errcode = 'serialization_failure', hint = 'Try the transaction again.';
    end if;
end
$$;

-- Queues the items of many requests at once; a request is a group: all of its items or none.
--
-- Locks: the queues rows in id order, `skip locked`, so it never waits while it holds something and
-- cannot deadlock; held to the commit, and the number is drawn after: within a destination numbers rise
-- in commit order (G2). A crash before the commit leaves nothing; after it, all, and the sweep finds what
-- no bell told. `wait_for` names one destination whose lock it waits for first, while it holds nothing.
--
-- status: queued, unknown (or another tenant's), disabled, full, locked (try again, apart), withheld
-- (another item of its group was wrong); `statuses` is null when all were queued, which takes no judging: the
-- queues rows of `wanted` (the items' destinations, sorted, each once) were all to be had, take messages, have no
-- bound, and are of the tenants in `owners` (null in all places: nobody asks; null itself: each item has to be
-- looked at). Starting up the long statement costs as much as a dozen inserts.
--
-- queues is read by index alone, whatever the statistics say; with nested loops off, what is locked is joined to
-- the items by hash: 1,000 items took 300 us each when each was compared with each, and take 12. Arrays become rows
-- in a select list: `from unnest(…)` writes all of them down first, bodies too.
create function orderly.enqueue_batch(
    groups integer[], destination_ids bigint[], tenants text[], payloads bytea[], content_types text[],
    headers text[], ttls integer[], wanted bigint[], owners text[], wait_for bigint,
    out statuses text[], out sequences bigint[], out at timestamptz)
    language plpgsql
    set enable_seqscan = off set enable_nestloop = off set plan_cache_mode = force_generic_plan set jit = off
    as $$
#variable_conflict use_column
declare
    plain bigint;
    locked_ids bigint[];
    locked_tenants text[];
    locked_accepting boolean[];
    locked_depths bigint[];
begin
    at := clock_timestamp();
    perform orderly.commit_durably();
    -- orderly.stay_fenced, written out: the call costs nearly as much as an insert.
    if not exists (select from orderly.incarnation i where i.started = pg_postmaster_start_time()) then
        perform orderly.fence();
    end if;
    if wait_for is not null then
        -- For each lock that has to be had: behind another waiter it is two, so twice as long.
        perform set_config('lock_timeout', '1s', true);
        perform from orderly.queues q where q.destination_id = wait_for for no key update;
    end if;

    select count(*) filter (where q.accepting and q.max_depth is null),
           array_agg(q.destination_id), array_agg(q.tenant), array_agg(q.accepting), array_agg(q.max_depth)
    into plain, locked_ids, locked_tenants, locked_accepting, locked_depths
    from (select * from orderly.queues q where q.destination_id = any (wanted) order by q.destination_id
          for no key update skip locked) q;
    if plain = cardinality(wanted) and (owners = locked_tenants or owners = array_fill(null::text, array[cardinality(wanted)])) then
        -- Drawn after the locks, in the order of the arrays.
        sequences := array(select nextval('orderly.message_sequence') from generate_series(1, cardinality(destination_ids)));
    else
        -- A statement of its own, whose snapshot is younger than the locks: one that is older would not count what
        -- another process committed in between, and queue more than max_depth. Bodies stay out of this: it sorts.
        with locked as materialized (
            select * from unnest(locked_ids, locked_tenants, locked_accepting, locked_depths)
                as l (destination_id, tenant, accepting, max_depth)
        ), verdict as materialized (
            select i.n, i.grp,
                   case
                       when l.destination_id is null then
                           case when exists (select from orderly.queues q where q.destination_id = i.destination_id
                                             and (i.tenant is null or q.tenant = i.tenant))
                                then 'locked' else 'unknown' end
                       when i.tenant is not null and l.tenant is distinct from i.tenant then 'unknown'
                       when not l.accepting then 'disabled'
                       when l.max_depth is not null and l.max_depth < i.nth + (
                           select count(*) from (select from orderly.messages m where m.destination_id = i.destination_id
                               and m.expires_at > at limit l.max_depth) queued) then 'full'
                       else 'queued'
                   end as status
            from (select u.*, row_number() over (partition by u.destination_id order by u.n) as nth
                  from unnest(groups, destination_ids, tenants) with ordinality as u (grp, destination_id, tenant, n)) i
            left join locked l on l.destination_id = i.destination_id
        ), judged as materialized (
            select v.n, v.status, bool_and(v.status = 'queued') over (partition by v.grp) as whole from verdict v
        ), numbered as materialized (
            -- judged is complete, so every lock is held before the first number is drawn; in the order given.
            select j.n, case when j.status = 'queued' and not j.whole then 'withheld' else j.status end as status,
                   case when j.whole then nextval('orderly.message_sequence') end as sequence
            from (select * from judged order by n) j
        )
        select array_agg(d.status order by d.n), array_agg(d.sequence order by d.n) into statuses, sequences from numbered d;
    end if;

    insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, headers, payload)
    select i.destination_id, i.sequence, at, at + make_interval(secs => i.ttl), i.ttl < 86400, i.content_type,
           i.headers::jsonb, i.payload
    from (select unnest(destination_ids) as destination_id, unnest(sequences) as sequence, unnest(ttls) as ttl,
                 unnest(content_types) as content_type, unnest(headers) as headers, unnest(payloads) as payload) i
    where i.sequence is not null;
end
$$;

-- The same for one request under an idempotency key, whose lock is tried: who has it can look, in a statement of
-- its own, at what a twin committed. The key is kept in the transaction that queues.
-- status may also be: reused (the key came with another body before); twin (it is under way: try again).
create function orderly.enqueue_once(
    caller text, path text, key text, body_hash bytea, destination_ids bigint[], payloads bytea[], content_types text[],
    headers text[], ttls integer[], wait_for bigint)
    returns table (status text, destination_id bigint, sequence bigint, created_at timestamptz, expires_at timestamptz)
    language plpgsql as $$
#variable_conflict use_variable
declare
    owner text := coalesce(caller, '');
    known orderly.idempotency_keys;
    outcome jsonb;
    wanted bigint[] := array(select distinct d from unnest(destination_ids) d order by d);
begin
    if not pg_try_advisory_xact_lock(orderly.idempotency_lock(jsonb_build_array(owner, path, key)::text)) then
        status := 'twin';
        return next;
        return;
    end if;
    select * into known from orderly.idempotency_keys k
    where k.tenant = owner and k.path = path and k.key = key and k.created_at > clock_timestamp() - interval '24 hours';
    if found then
        if known.body_hash <> body_hash then
            status := 'reused';
            return next;
            return;
        end if;
        outcome := known.answer;
    else
        select jsonb_agg(jsonb_build_object('status', coalesce(b.statuses[i.n], 'queued'), 'destination_id', i.id,
                                            'sequence', b.sequences[i.n], 'created_at', b.at,
                                            'expires_at', b.at + make_interval(secs => i.ttl)) order by i.n) into outcome
        from orderly.enqueue_batch(
                 array_fill(0, array[cardinality(destination_ids)]), destination_ids,
                 array_fill(caller, array[cardinality(destination_ids)]), payloads, content_types, headers, ttls,
                 wanted, array_fill(caller, array[cardinality(wanted)]), wait_for) as b,
             unnest(destination_ids, ttls) with ordinality as i (id, ttl, n);
        if not jsonb_path_exists(outcome, '$[*] ? (@.status != "queued")') then
            insert into orderly.idempotency_keys as k (tenant, path, key, body_hash, answer) values (owner, path, key, body_hash, outcome)
            on conflict on constraint idempotency_keys_pkey
            do update set body_hash = excluded.body_hash, answer = excluded.answer, created_at = excluded.created_at;
        end if;
    end if;
    return query select o.status, o.destination_id, o.sequence, o.created_at, o.expires_at
                 from jsonb_to_recordset(outcome) as o (status text, destination_id bigint, sequence bigint,
                                                        created_at timestamptz, expires_at timestamptz);
end
$$;

-- Rings for destinations: a hint, outside the transaction that queued (NOTIFY holds a cluster-wide lock
-- through its commit's fsync: 15,500/s without it, 5,500/s with it inside, 13,400/s with this bell).
create function orderly.ring(payload text) returns void
    language plpgsql as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    perform pg_notify('orderly', payload);
end
$$;

-- For applications: in the caller's own transaction. Waits for the queue's lock, and keeps it to the commit.
create function orderly.enqueue_bytes(
    destination_id bigint, payload bytea, content_type text, headers jsonb default '{}', ttl_seconds integer default 86400)
    returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    queue orderly.queues;
    at timestamptz := clock_timestamp();
    given bigint;
    name text;
    value jsonb;
begin
    if destination_id is null or payload is null or content_type is null or ttl_seconds is null then
        raise exception 'destination_id, payload, content_type and ttl_seconds must not be null' using errcode = 'null_value_not_allowed';
    end if;
    if ttl_seconds not between 1 and 86400 then
        raise exception 'ttl_seconds must be between 1 and 86400' using errcode = 'invalid_parameter_value';
    end if;
    if length(payload) > 1048576 then
        raise exception 'the payload is larger than 1 MiB' using errcode = 'program_limit_exceeded';
    end if;
    if content_type !~ '^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?$' or length(content_type) > 255 then
        raise exception 'content_type is not a media type' using errcode = 'invalid_parameter_value';
    end if;
    headers := coalesce(headers, '{}');
    if jsonb_typeof(headers) <> 'object' or length(headers::text) > 16384 then
        raise exception 'headers must be an object of strings of at most 16 KiB' using errcode = 'invalid_parameter_value';
    end if;
    for name, value in select * from jsonb_each(headers) loop
        if name !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+$' or jsonb_typeof(value) <> 'string'
           or (value #>> '{}') !~ '^([!-~]([ -~\t]*[!-~])?)?$' then
            raise exception 'header % is not a valid header', name using errcode = 'invalid_parameter_value';
        end if;
        if lower(name) ~ '^(webhook-|orderly-)' or lower(name) in ('host', 'content-length', 'content-type', 'user-agent',
            'connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'trailer',
            'transfer-encoding', 'upgrade') then
            raise exception 'header % is set by Orderly or by the connection', name using errcode = 'invalid_parameter_value';
        end if;
    end loop;
    perform orderly.commit_durably();
    perform orderly.check_fence();
    select * into queue from orderly.queues q where q.destination_id = destination_id for no key update;
    if not found then
        raise exception 'unknown destination %', destination_id using errcode = 'no_data_found';
    end if;
    if not queue.accepting then
        raise exception 'destination % is disabled', destination_id using errcode = 'object_not_in_prerequisite_state';
    end if;
    if queue.max_depth is not null and queue.max_depth <= (
        select count(*) from (select from orderly.messages m where m.destination_id = queue.destination_id
            and m.expires_at > at limit queue.max_depth) queued) then
        raise exception 'the queue of destination % is full', destination_id using errcode = 'configuration_limit_exceeded';
    end if;
    given := nextval('orderly.message_sequence');
    insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, headers, payload)
    values (destination_id, given, at, at + make_interval(secs => ttl_seconds), ttl_seconds < 86400, content_type,
            (select jsonb_object_agg(lower(e.key), e.value) from jsonb_each(headers) e), payload);
    perform pg_notify('orderly', 'b' || destination_id);
    return destination_id || '-' || given;
end
$$;

create function orderly.enqueue(
    destination_id bigint, payload jsonb, content_type text default 'application/json', headers jsonb default '{}',
    ttl_seconds integer default 86400)
    returns text
    language sql security definer set search_path = pg_catalog, pg_temp as $$
    select orderly.enqueue_bytes(destination_id, convert_to(payload::text, 'UTF8'), content_type, headers, ttl_seconds)
$$;

revoke all on function orderly.enqueue(bigint, jsonb, text, jsonb, integer) from public;
revoke all on function orderly.enqueue_bytes(bigint, bytea, text, jsonb, integer) from public;
revoke all on function orderly.fence() from public;
