-- Who works, who has died, and what did nobody see?

-- A worker's row appears after its lock is held and its LISTEN is confirmed. A process that comes back
-- with a new session has given up all that its old one held, so the old row goes (DESIGN: the grace ends), and with it
-- the old session, which may be alive behind a line that leads nowhere: nobody would look after a session without a row.
create function orderly.join(me bigint, process text, host text, pid integer, kind text, destination bigint) returns void
    language plpgsql as $$
#variable_conflict use_variable
declare
    old bigint;
begin
    if not exists (select from orderly.incarnation i where i.started = pg_postmaster_start_time()) then
        perform orderly.fence();
    end if;
    for old in delete from orderly.workers w where w.process = process returning w.id loop
        begin
            perform orderly.end_session(old);
        exception when insufficient_privilege then
            raise warning 'the session of worker % could not be ended by the role of worker %', old, me;
        end;
        perform pg_notify('orderly', 'l' || old);
    end loop;
    insert into orderly.workers (id, process, host, pid, kind, destination_id, incarnation)
    values (me, process, host, pid, kind, destination, (select i.since from orderly.incarnation i));
    perform pg_notify('orderly', 'j' || me || ':' || kind);
end
$$;

create function orderly.leave(me bigint) returns void
    language plpgsql as $$
begin
    delete from orderly.workers w where w.id = me;
    perform pg_notify('orderly', 'l' || me);
end
$$;

-- Takes the rows of the dead away and says so. A free lock on an id means that its session is gone. After
-- a restart of Postgres all locks are free at once: those who had registered before it get `grace` to come
-- back, since they may still be sending (G3). Who they are is told by the incarnation they joined in, not by comparing
-- times: a row may come from a primary whose clock went otherwise, and clocks are set back.
--
-- Locks: worker ids, tried and shared, let go at once; the row is locked by the delete.
create function orderly.reap(grace_seconds double precision) returns setof bigint
    language plpgsql as $$
declare
    candidate record;
    begun timestamptz;
begin
    if not exists (select from orderly.incarnation i where i.started = pg_postmaster_start_time()) then
        perform orderly.fence();
    end if;
    select i.since into begun from orderly.incarnation i;
    for candidate in select w.id, w.incarnation from orderly.workers w order by w.id loop
        continue when candidate.incarnation is distinct from begun and clock_timestamp() < begun + make_interval(secs => grace_seconds);
        if pg_try_advisory_xact_lock_shared(orderly.worker_lock(candidate.id)) then
            delete from orderly.workers w where w.id = candidate.id;
            if found then
                perform pg_notify('orderly', 'l' || candidate.id);
                return next candidate.id;
            end if;
        end if;
    end loop;
end
$$;

-- How long until everybody who registered before the last restart is judged; null: nobody is waited for.
create function orderly.grace_left_ms(grace_seconds double precision) returns bigint
    language sql stable as $$
    select greatest(0, extract(epoch from i.since + make_interval(secs => grace_seconds) - clock_timestamp()) * 1000)::bigint
    from orderly.incarnation i
    where exists (select from orderly.workers w where w.incarnation is distinct from i.since)
$$;

-- Waits for the lock of the next worker in the ring: `gone` is its id the moment its session has ended, null
-- after `seconds`, 0 at once when there is no other. One statement for the client, and no snapshot older
-- than a second: it gives up each second, commits, and looks again who is next.
--
-- Each second it also says something to its client, so that a host that is gone is noticed: TCP waits 11 s for
-- an answer to the first thing said, and a server that says nothing asks by itself after 5 s, but gives up neither
-- before 11 s, and begins anew with what it says meanwhile: a session that said something 9.5 s after its host was
-- lost lasted for 21 s (measured). So this connection ends within 13 s, its lock with it, and the watcher then ends
-- the session, whose own worker gives it up with the loss of this connection (it is given a moment to do so).
-- It takes the dead one's row away itself, since its own process may hang: `reaped`.
-- Needs lock_timeout = 1s on the session.
create procedure orderly.watch(
    me bigint, seconds integer, grace_seconds double precision, inout gone bigint default null, inout reaped boolean default false)
    language plpgsql as $$
declare
    until timestamptz := clock_timestamp() + make_interval(secs => seconds);
    peer bigint;
begin
    loop
        select coalesce((select min(w.id) from orderly.workers w where w.id > me),
                        (select min(w.id) from orderly.workers w where w.id < me)) into peer;
        if peer is null then
            gone := 0;
            return;
        end if;
        if pg_try_advisory_lock_shared(orderly.pulse_lock(peer)) then
            perform pg_advisory_unlock_shared(orderly.pulse_lock(peer));
            perform pg_sleep(0.2);
            begin
                perform orderly.end_session(peer);
            exception when insufficient_privilege then
                raise warning 'the session of worker % could not be ended by the role of worker %', peer, me;
            end;
        end if;
        raise info 'watching';
        begin
            perform pg_advisory_lock_shared(orderly.worker_lock(peer));
            gone := peer;
        exception when lock_not_available then
            null;
        end;
        if gone is not null then
            perform pg_advisory_unlock_shared(orderly.worker_lock(peer));
            begin
                select coalesce(bool_or(dead = peer), false) into reaped from orderly.reap(grace_seconds) dead;
            exception when lock_not_available then
                -- Somebody is putting up the fence: left to the client.
                reaped := false;
            end;
            commit;
            return;
        end if;
        commit;
        exit when clock_timestamp() >= until;
    end loop;
end
$$;

-- Ends the session that holds a worker's lock, as found now: a process id that was stored may be another's.
create function orderly.end_session(worker bigint) returns boolean
    language sql as $$
    select coalesce(bool_or(pg_terminate_backend(l.pid)), false) from pg_locks l
    where l.locktype = 'advisory' and l.mode = 'ExclusiveLock' and l.granted and l.objsubid = 1
      and l.database = (select oid from pg_database where datname = current_database())
      and ((l.classid::bigint << 32) | l.objid::bigint) = orderly.worker_lock(worker)
$$;

-- Every destination that nobody serves and that has messages: ready, or in wait_ms. Paused, held and
-- disabled ones are left out. By index: claims, then one look above the floor of each.
create function orderly.unserved(me bigint) returns table (destination_id bigint, wait_ms bigint)
    language sql stable
    set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
    select c.destination_id,
           case when c.next_attempt_at > clock_timestamp() + interval '5 s'
                then (extract(epoch from c.next_attempt_at - clock_timestamp()) * 1000)::bigint end
    from orderly.claims c
    where (c.owner is null or c.owner = me or not exists (select from orderly.workers w where w.id = c.owner)) and not c.held
      and exists (select from orderly.messages m where m.destination_id = c.destination_id and m.sequence > c.floor)
      and exists (select from orderly.destinations d where d.id = c.destination_id and d.state = 'active')
    order by c.destination_id
$$;

-- Of these, what could be sent and has lain for so long though a bell told of it: whoever should claim it does not.
create function orderly.neglected(ids bigint[], after_seconds double precision) returns setof bigint
    language sql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
    select c.destination_id
    from unnest(ids) i(id)
    join orderly.claims c on c.destination_id = i.id
    join lateral (select m.created_at from orderly.messages m where m.destination_id = c.destination_id and m.sequence > c.floor
                  order by m.sequence limit 1) h on h.created_at < clock_timestamp() - make_interval(secs => after_seconds)
    where (c.owner is null or not exists (select from orderly.workers w where w.id = c.owner)) and not c.held
      and (c.next_attempt_at is null or c.next_attempt_at < clock_timestamp() - make_interval(secs => after_seconds))
      and exists (select from orderly.destinations d where d.id = c.destination_id and d.state = 'active')
$$;

create function orderly.owned_by(worker bigint) returns setof bigint
    language sql stable as $$ select c.destination_id from orderly.claims c where c.owner = worker $$;

-- What fell through: messages that nobody serves and that have waited long enough that no bell can be
-- under way (an API process that died between its commit and its bell).
create function orderly.sweep(after_seconds double precision) returns setof bigint
    language sql stable
    set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
    select c.destination_id
    from orderly.claims c
    join lateral (select m.created_at from orderly.messages m where m.destination_id = c.destination_id and m.sequence > c.floor
                  order by m.sequence limit 1) h on h.created_at < clock_timestamp() - make_interval(secs => after_seconds)
    where (c.owner is null or not exists (select from orderly.workers w where w.id = c.owner)) and not c.held
      and (c.next_attempt_at is null or c.next_attempt_at < clock_timestamp() - make_interval(secs => after_seconds))
      and exists (select from orderly.destinations d where d.id = c.destination_id and d.state = 'active')
$$;

-- Ends what expired in queues that nobody serves, whatever they wait for (a worker perhaps: only one pinned to
-- another destination may be alive). At most `most` messages a call, and 100 destinations, whose locks it takes for
-- this transaction, if free: a claim then finds them busy, and tries again. Whether there may be more.
create function orderly.expire_unserved(most integer) returns boolean
    language plpgsql
    set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
declare
    id bigint;
    piece bigint;
    total bigint := 0;
    queues integer := 0;
begin
    for id in
        select c.destination_id from orderly.claims c
        where (c.owner is null or not exists (select from orderly.workers w where w.id = c.owner))
          and (exists (select from orderly.messages m where m.destination_id = c.destination_id and m.brief
                       and m.expires_at <= clock_timestamp())
               or (select m.expires_at <= clock_timestamp() from orderly.messages m where m.destination_id = c.destination_id
                   and m.sequence > c.floor order by m.sequence limit 1))
        order by c.destination_id
    loop
        exit when total >= most or queues >= 100;
        continue when not pg_try_advisory_xact_lock(orderly.destination_lock(id));
        queues := queues + 1;
        -- Looked at again under the lock: it may have been claimed and lost since.
        continue when not coalesce((select orderly.is_free(c.owner, null) from orderly.claims c where c.destination_id = id), false);
        piece := orderly.expire_queue(id, null, most - total::integer);
        total := total + piece;
    end loop;
    -- Not for ever where locks were had and nothing could be done.
    return total >= most or total > 0 and queues >= 100;
end
$$;

-- Has workers end what expired in queues that they serve: the head that one tries again and again, or what it is busy
-- with, may stand before it for long. What has the default time to live expires in order, behind the head.
create function orderly.expire_served() returns void
    language plpgsql
    set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
declare
    id bigint;
begin
    for id in
        select c.destination_id from orderly.claims c
        where c.owner is not null and exists (select from orderly.workers w where w.id = c.owner)
          and exists (select from orderly.messages m where m.destination_id = c.destination_id and m.brief
                      and m.expires_at <= clock_timestamp() - interval '4 s')
    loop
        perform orderly.ask(id, 'expire', '{}', 15000);
    end loop;
end
$$;

-- Ends what expired in one queue, under its lock; the head's state goes with the head.
create function orderly.expire_queue(id bigint, in_flight bigint, most integer) returns bigint
    language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
#variable_conflict use_variable
declare
    claim orderly.claims;
    ended bigint;
begin
    select * into claim from orderly.claims c where c.destination_id = id;
    with old as (
        (select m.sequence from orderly.messages m
         where m.destination_id = id and m.brief and m.expires_at <= clock_timestamp() order by m.expires_at limit most)
        union
        (select o.sequence from (
            select m.sequence, m.expires_at from orderly.messages m
            where m.destination_id = id and m.sequence > claim.floor order by m.sequence limit most) o
         where o.expires_at <= clock_timestamp())
    ), gone as (
        delete from orderly.messages m using old o
        where m.destination_id = id and m.sequence = o.sequence and m.sequence is distinct from in_flight
        returning m.*
    ), counted as (
        insert into orderly.skips (destination_id, sequence, count) select g.destination_id, g.sequence, 1 from gone g
        on conflict do nothing
    ), logged as (
        insert into orderly.ends (destination_id, sequence, outcome, created_at, expires_at, attempts, last_error, content_type, headers, payload)
        select g.destination_id, g.sequence, 'expired', g.created_at, g.expires_at,
               case when claim.head_sequence = g.sequence then claim.head_attempts else 0 end,
               case when claim.head_sequence = g.sequence then claim.last_error end, g.content_type, g.headers, g.payload
        from gone g
        returning sequence
    )
    select count(*) into ended from logged;
    if claim.head_sequence is not null and not exists (
        select from orderly.messages m where m.destination_id = id and m.sequence = claim.head_sequence) then
        perform orderly.forget_head(id);
        perform pg_notify('orderly', 'w' || id);
    end if;
    return ended;
end
$$;

-- Makes the log's partitions for today and the next two days, and drops those that ended `keep` days ago.
-- Gives up after 50 ms of waiting for a lock rather than have everybody wait behind it.
create function orderly.maintain_partitions(keep_days integer) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
    day date;
    name text;
    old record;
begin
    perform set_config('lock_timeout', '50ms', true);
    for day in select generate_series(current_date, current_date + 2, interval '1 day')::date loop
        name := 'attempts_' || to_char(day, 'YYYYMMDD');
        if to_regclass('orderly.' || name) is null then
            begin
                execute format('create table orderly.%I partition of orderly.attempts for values from (%L) to (%L)',
                               name, day::timestamptz, (day + 1)::timestamptz);
            exception when lock_not_available or check_violation then
                null;  -- the default one serves; tried again with the next call
            end;
        end if;
    end loop;
    for old in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'orderly.attempts'::regclass and c.relname ~ '^attempts_\d{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - keep_days
    loop
        begin
            execute format('drop table orderly.%I', old.relname);
        exception when lock_not_available then
            null;
        end;
    end loop;
end
$$;

-- It drops tables with its owner's rights.
revoke all on function orderly.maintain_partitions(integer) from public;

-- A piece of what is past its time; how many rows went.
create function orderly.prune(attempt_days integer, letter_days integer, payload_hours integer, most integer) returns bigint
    language plpgsql
    set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
declare
    taken bigint;
    total bigint := 0;
begin
    delete from orderly.ends e using (
        select x.destination_id, x.sequence from orderly.ends x
        where x.ended_at < clock_timestamp() - make_interval(days => letter_days) order by x.ended_at limit most) p
    where e.destination_id = p.destination_id and e.sequence = p.sequence;
    get diagnostics taken = row_count;
    total := total + taken;
    delete from orderly.kept k using (
        select x.destination_id, x.sequence from orderly.kept x
        where x.delivered_at < clock_timestamp() - make_interval(hours => payload_hours) order by x.delivered_at limit most) p
    where k.destination_id = p.destination_id and k.sequence = p.sequence;
    get diagnostics taken = row_count;
    total := total + taken;
    delete from orderly.idempotency_keys k using (
        select x.tenant, x.path, x.key from orderly.idempotency_keys x
        where x.created_at < clock_timestamp() - interval '24 hours' order by x.created_at limit most) p
    where k.tenant = p.tenant and k.path = p.path and k.key = p.key;
    get diagnostics taken = row_count;
    total := total + taken;
    delete from orderly.requests r using (
        select x.id from orderly.requests x where x.deadline < clock_timestamp() - interval '1 hour' limit most) p
    where r.id = p.id;
    get diagnostics taken = row_count;
    total := total + taken;
    delete from orderly.attempts_default a using (
        select x.ctid from orderly.attempts_default x where x.at < clock_timestamp() - make_interval(days => attempt_days) limit most) p
    where a.ctid = p.ctid;
    get diagnostics taken = row_count;
    return total + taken;
end
$$;

select orderly.maintain_partitions(7);
