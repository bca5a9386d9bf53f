-- What does whoever holds a destination do: claim, read, acknowledge, release?
--
-- claims rows are written only under the destination's advisory lock, so their row locks never meet.
--
-- What only a worker's session calls has no settings of its own: that has them (src/store/session.rs), and setting five
-- of them for a call costs as much as acknowledging a message.

-- An owner that has no row in workers counts as none.
create function orderly.is_free(owner bigint, me bigint) returns boolean
    language sql stable as $$
    select owner is null or owner is not distinct from me or not exists (select from orderly.workers w where w.id = owner)
$$;

-- What was last delivered by the log, for claims that no release wrote; 0 for nothing.
create function orderly.last_delivered(id bigint) returns bigint
    language sql stable as $$
    select coalesce((select a.sequence from orderly.attempts a where a.destination_id = id and a.delivered
                     order by a.sequence desc limit 1), 0)
$$;

-- Claims what can be had of `ids` (at most 100: locks survive an error, and so many can be undone).
--
-- Locks: advisory ones, tried, never waited for; then the claims rows of those it has. Chosen in one
-- statement, locked in the next, read and written in a third, whose snapshot is younger than the locks:
-- what it returns is true (G3). A crash after the lock lets it go; after the commit the owner is dead and
-- counts as none.
--
-- verdict: claimed; owned (by `holder`); dormant (paused, held, disabled: until a wake; or for wait_ms);
-- busy (locked for an instant by somebody who owns nothing: try again); gone.
create function orderly.claim(me bigint, ids bigint[])
    returns table (destination_id bigint, verdict text, holder bigint, wait_ms bigint)
    language plpgsql
    as $$
#variable_conflict use_column
declare
    candidates bigint[] := '{}';
    got bigint[] := '{}';
    candidate record;
    id bigint;
begin
    for candidate in
        select w.id, c.destination_id is null or d.id is null as gone, c.owner,
               -- orderly.is_free, written out: a function in SQL is planned anew by each statement that calls it.
               c.owner is null or c.owner = me or not exists (select from orderly.workers a where a.id = c.owner) as free,
               d.state <> 'active' or c.held as stopped,
               case when c.next_attempt_at > clock_timestamp() + interval '5 s'
                    then (extract(epoch from c.next_attempt_at - clock_timestamp()) * 1000)::bigint end as wait,
               exists (select from orderly.requests r where r.destination_id = w.id and r.state = 'pending'
                       and r.kind in ('yield', 'lend') and r.deadline > clock_timestamp()) as wanted
        from unnest(ids) w (id)
        left join orderly.claims c on c.destination_id = w.id
        left join orderly.destinations d on d.id = w.id
    loop
        destination_id := candidate.id;
        holder := null;
        wait_ms := null;
        if candidate.gone then
            verdict := 'gone';
            return next;
        elsif not candidate.free then
            verdict := 'owned';
            holder := candidate.owner;
            return next;
        elsif candidate.wanted then
            verdict := 'busy';
            return next;
        elsif candidate.stopped or candidate.wait is not null then
            verdict := 'dormant';
            wait_ms := case when not candidate.stopped then candidate.wait end;
            return next;
        else
            candidates := candidates || candidate.id;
        end if;
    end loop;

    -- A loop, since a planner may call a function of a query twice, and locks count.
    foreach id in array candidates loop
        if pg_try_advisory_lock(orderly.destination_lock(id)) then
            got := got || id;
        else
            destination_id := id;
            verdict := 'busy';
            holder := null;
            wait_ms := null;
            return next;
        end if;
    end loop;

    for id in
    with before as materialized (
        select c.destination_id, case when c.owner is null then c.last_delivered
                                      else greatest(c.last_delivered, orderly.last_delivered(c.destination_id)) end as last_delivered
        from unnest(got) g (id)
        join orderly.claims c on c.destination_id = g.id
        where not c.held
          -- Not a join: while destinations has no statistics, a planner that believes few are active begins with all
          -- of them, for a claim of one (tests/plans.rs).
          and (select d.state from orderly.destinations d where d.id = c.destination_id) = 'active'
          and (c.owner is null or c.owner = me or not exists (select from orderly.workers a where a.id = c.owner))
    )
    update orderly.claims c
    set owner = me, last_owner = me, since = clock_timestamp(),
        last_delivered = b.last_delivered, floor = greatest(c.floor, b.last_delivered),
        -- Whoever had it and did not give it back may have sent just now.
        last_start_at = case when c.owner is null then c.last_start_at else clock_timestamp() end,
        epoch = case when c.last_owner = me then c.epoch
                     else greatest(c.epoch, (select epoch_base from orderly.cluster)) + 1 end
    from before b
    where c.destination_id = b.destination_id
    returning c.destination_id
    loop
        destination_id := id;
        verdict := 'claimed';
        holder := null;
        wait_ms := null;
        return next;
        got := array_remove(got, id);
    end loop;

    -- Locked, and then not ours after all: let go, and try again.
    -- (What is left in got; asking claims would go by its owner, and read all that is served here.)
    foreach id in array got loop
        perform pg_advisory_unlock(orderly.destination_lock(id));
        destination_id := id;
        verdict := 'busy';
        return next;
    end loop;
end
$$;

-- What a lane must know of destinations whose lock is held here. In plpgsql, like release: its plans are kept,
-- a function's in SQL are made anew by each call (2 ms of 3 ms for one destination).
create function orderly.lanes(ids bigint[])
    returns table (
        destination_id bigint, epoch bigint, floor bigint, last_delivered bigint, skip_sequences bigint[], skip_counts bigint[],
        head_sequence bigint, head_attempts integer, head_wait_ms bigint, held boolean, state text, url text, headers bytea,
        hmac_secret bytea, on_exhausted text, max_retries integer, delay_seconds double precision, backoff double precision,
        timeout_seconds double precision, max_per_second double precision, since_start_ms bigint, asked boolean)
    language plpgsql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
#variable_conflict use_column
begin
    return query select c.destination_id, c.epoch, c.floor, c.last_delivered,
           array(select s.sequence from orderly.skips s where s.destination_id = c.destination_id order by s.sequence),
           array(select s.count from orderly.skips s where s.destination_id = c.destination_id order by s.sequence),
           c.head_sequence, c.head_attempts,
           greatest(0, (extract(epoch from c.next_attempt_at - clock_timestamp()) * 1000)::bigint), c.held, d.state,
           d.url, d.headers, d.hmac_secret, d.on_exhausted, d.max_retries, d.delay_seconds, d.backoff, d.timeout_seconds,
           d.max_per_second, (extract(epoch from clock_timestamp() - c.last_start_at) * 1000)::bigint,
           exists (select from orderly.requests r where r.destination_id = c.destination_id and r.state = 'pending')
    from orderly.claims c
    join orderly.destinations d on d.id = c.destination_id
    where c.destination_id = any (ids);
end
$$;

-- The outcomes of many destinations at once: one commit, on the session whose locks make it theirs (G2, G3).
--
-- kind: d delivered; r failed, to be retried; x failed, exhausted; h failed, held; e expired, not tried.
-- At most one each of a destination, in any order: only the holder deletes messages and writes claims, so row locks
-- meet nobody. The first `plain` were delivered at the first try, and there is nothing else to write of them; so a
-- failure costs no other destination more. `places`: where the rows were read, as a hint. A crash before the commit
-- leaves the message in the queue, after it, ended. Returns how many messages it found to end.
create function orderly.acknowledge(
    kinds text[], destination_ids bigint[], sequences bigint[], numbers integer[], statuses smallint[], errors text[],
    durations integer[], responses bytea[], retry_ms bigint[], plain integer, keep boolean, places tid[] default null)
    returns bigint
    language plpgsql
    as $$
#variable_conflict use_column
declare
    found_plain bigint := 0;
    found_count bigint;
begin
    insert into orderly.attempts (destination_id, sequence, number, at, delivered, status_code, error, duration_ms, response)
    select i.destination_id, i.sequence, i.number, clock_timestamp() - i.duration * interval '1 ms',
           i.kind = 'd', i.status, i.error, i.duration, i.response
    -- Not `from unnest(…)`, which writes all of it down first.
    from (select unnest(kinds) as kind, unnest(destination_ids) as destination_id, unnest(sequences) as sequence,
                 unnest(numbers) as number, unnest(statuses) as status, unnest(errors) as error,
                 unnest(durations) as duration, unnest(responses) as response) i
    where i.kind <> 'e';

    if keep then
        plain := 0;
    end if;
    if plain > 0 then
        -- A row lies where it was read, and is looked up by its key only where somebody has rewritten the table since;
        -- the key is asked in either case.
        delete from orderly.messages m
        using (select unnest(places[1:plain]) as place, unnest(destination_ids[1:plain]) as destination_id,
                      unnest(sequences[1:plain]) as sequence) i
        where m.ctid = i.place and m.destination_id = i.destination_id and m.sequence = i.sequence;
        get diagnostics found_plain = row_count;
        if found_plain < plain then
            delete from orderly.messages m
            using (select unnest(destination_ids[1:plain]) as destination_id, unnest(sequences[1:plain]) as sequence) i
            where m.destination_id = i.destination_id and m.sequence = i.sequence;
            get diagnostics found_count = row_count;
            found_plain := found_plain + found_count;
        end if;
        if plain = cardinality(kinds) then
            return found_plain;
        end if;
        kinds := kinds[plain + 1:];
        destination_ids := destination_ids[plain + 1:];
        sequences := sequences[plain + 1:];
        numbers := numbers[plain + 1:];
        errors := errors[plain + 1:];
        retry_ms := retry_ms[plain + 1:];
    end if;

    with item as materialized (
        select * from unnest(kinds, destination_ids, sequences, numbers, errors)
            as i (kind, destination_id, sequence, number, error)
    ), gone as (
        delete from orderly.messages m using item i
        where m.destination_id = i.destination_id and m.sequence = i.sequence and i.kind in ('d', 'x', 'e')
        returning m.*, i.kind, i.number, i.error
    ), logged as (
        insert into orderly.ends (destination_id, sequence, outcome, created_at, expires_at, attempts, last_error, content_type, headers, payload)
        select g.destination_id, g.sequence, case g.kind when 'x' then 'exhausted' else 'expired' end, g.created_at,
               g.expires_at, g.number, coalesce(g.error,
                   (select c.last_error from orderly.claims c where c.destination_id = g.destination_id and c.head_sequence = g.sequence)),
               g.content_type, g.headers, g.payload
        from gone g where g.kind in ('x', 'e')
    ), remembered as (
        insert into orderly.kept (destination_id, sequence, delivered_at, content_type, headers, payload)
        select g.destination_id, g.sequence, clock_timestamp(), g.content_type, g.headers, g.payload
        from gone g where g.kind = 'd' and keep
    )
    select count(*) into found_count from gone;

    insert into orderly.skips (destination_id, sequence, count)
    select i.destination_id, i.sequence, 1 from unnest(kinds, destination_ids, sequences) as i (kind, destination_id, sequence)
    where i.kind in ('x', 'e')
    on conflict do nothing;

    delete from orderly.skips s using unnest(kinds, destination_ids, sequences) as i (kind, destination_id, sequence)
    where i.kind = 'd' and s.destination_id = i.destination_id and s.sequence < i.sequence;

    update orderly.claims c
    set head_sequence = case when i.kind in ('r', 'h') then i.sequence end,
        head_attempts = case when i.kind in ('r', 'h') then i.number else 0 end,
        last_error = case when i.kind in ('r', 'h') then i.error end,
        next_attempt_at = case when i.kind = 'r' then clock_timestamp() + make_interval(secs => i.retry_ms / float8 '1000') end,
        held = i.kind = 'h'
    from unnest(kinds, destination_ids, sequences, numbers, errors, retry_ms)
         as i (kind, destination_id, sequence, number, error, retry_ms)
    where c.destination_id = i.destination_id and (i.kind <> 'd' or i.number > 1);
    return found_plain + found_count;
end
$$;

-- Writes what a lane knows, and gives the ownership up unless `keep`. The locks are let go after this has
-- committed, in a call of its own: whoever then has a lock reads what was written here. `started` is how many
-- milliseconds ago each started its last request; null: none.
create function orderly.release(
    me bigint, ids bigint[], floors bigint[], delivered bigint[], started bigint[], keep boolean)
    returns setof bigint
    language plpgsql as $$
#variable_conflict use_column
begin
    return query update orderly.claims c
    set owner = case when keep then me end, floor = greatest(c.floor, i.floor), last_delivered = greatest(c.last_delivered, i.delivered),
        last_start_at = coalesce(clock_timestamp() - make_interval(secs => i.started / 1000.0), c.last_start_at)
    from unnest(ids, floors, delivered, started) as i (id, floor, delivered, started)
    -- Not `=`: the planner would go by the owner, and compare all that is served here with each.
    where c.destination_id = i.id and c.owner is not distinct from me
    returning c.destination_id;
end
$$;

create function orderly.unlock(ids bigint[]) returns void
    language plpgsql as $$
declare
    id bigint;
begin
    foreach id in array ids loop
        perform pg_advisory_unlock(orderly.destination_lock(id));
    end loop;
end
$$;

-- After an error: which destinations this session has locked, of those it should not have. Unlocks them
-- however often they were locked.
create function orderly.unlock_strays(held bigint[]) returns setof bigint
    language plpgsql as $$
declare
    stray bigint;
begin
    for stray in
        select ((l.classid::bigint << 32) | l.objid::bigint) & ((1::bigint << 56) - 1) from pg_locks l
        where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.objsubid = 1 and l.classid::bigint >> 24 = 79
          and l.database = (select oid from pg_database where datname = current_database())
    loop
        if stray <> all (held) then
            while pg_advisory_unlock(orderly.destination_lock(stray)) loop
                null;
            end loop;
            return next stray;
        end if;
    end loop;
end
$$;
