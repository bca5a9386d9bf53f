-- What may a client ask of a destination's holder, and how is it done exactly?
--
-- Whoever has the destination's advisory lock carries it out: an API process that finds it free, for one
-- transaction; else the lane that has it, between two requests or beside the one in flight.

-- The message that would be sent next.
create function orderly.head(id bigint) returns bigint
    language sql stable as $$
    select m.sequence from orderly.messages m
    where m.destination_id = id and m.expires_at > clock_timestamp()
      and m.sequence > coalesce((select c.floor from orderly.claims c where c.destination_id = id), 0)
    order by m.sequence limit 1
$$;

create function orderly.count_skips(id bigint, last bigint, number bigint) returns void
    language sql as $$
    insert into orderly.skips as s (destination_id, sequence, count) values (id, last, number)
    on conflict (destination_id, sequence) do update set count = s.count + excluded.count
$$;

create function orderly.forget_head(id bigint) returns void
    language sql as $$
    update orderly.claims set head_sequence = null, head_attempts = 0, last_error = null, next_attempt_at = null, held = false
    where destination_id = id
$$;

-- Does what is asked, under the destination's advisory lock. Locks: this destination's rows of
-- destinations, messages and claims, which nobody else writes but an API process that changes a
-- destination in a single short statement. `in_flight` is the sequence being sent right now, or null.
--
-- status: ok; not_found; conflict (with detail); more (call again); refused (not by a lane).
create function orderly.carry_out(id bigint, kind text, arguments jsonb, in_flight bigint) returns jsonb
    language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
#variable_conflict use_variable
declare
    claim orderly.claims;
    current text;
    target bigint := (arguments ->> 'sequence')::bigint;
    first bigint;
    removed bigint;
    last bigint;
    most constant integer := 1000;
begin
    select * into claim from orderly.claims c where c.destination_id = id;
    select d.state into current from orderly.destinations d where d.id = id;
    if current is null or claim.destination_id is null then
        return jsonb_build_object('status', 'not_found');
    end if;

    case kind
    when 'delete_message' then
        if target = in_flight then
            return jsonb_build_object('status', 'conflict', 'detail', 'the message is in flight');
        end if;
        delete from orderly.messages m
        where m.destination_id = id and m.sequence = target and m.expires_at > clock_timestamp();
        if not found then
            return jsonb_build_object('status', 'not_found');
        end if;
        perform orderly.count_skips(id, target, 1);
        if claim.head_sequence = target then
            perform orderly.forget_head(id);
        end if;

    when 'pause' then
        if current = 'disabled' then
            return jsonb_build_object('status', 'conflict', 'detail', 'the destination is disabled');
        end if;
        update orderly.destinations d set state = 'paused', updated_at = clock_timestamp() where d.id = id and d.state = 'active';

    when 'resume' then
        if current = 'disabled' then
            if in_flight is not null or (arguments ->> 'by_lane')::boolean then
                return jsonb_build_object('status', 'refused');
            end if;
            -- An application's transaction may have it; for each lock, and behind another waiter it is two.
            perform set_config('lock_timeout', '1s', true);
            update orderly.queues q set accepting = true where q.destination_id = id;
            update orderly.claims c set next_attempt_at = null where c.destination_id = id;
        end if;
        update orderly.destinations d set state = 'active', updated_at = clock_timestamp() where d.id = id and d.state <> 'active';

    when 'skip', 'retry_now' then
        first := orderly.head(id);
        if first is null then
            return jsonb_build_object('status', 'conflict', 'detail', 'the queue is empty');
        elsif target is not null and target <> first then
            return jsonb_build_object('status', 'conflict', 'detail', 'another message is the head: ' || id || '-' || first);
        elsif in_flight is not null then
            return jsonb_build_object('status', 'conflict', 'detail', 'the head is in flight');
        end if;
        if kind = 'retry_now' then
            update orderly.claims c set next_attempt_at = null, held = false where c.destination_id = id;
        else
            with gone as (
                delete from orderly.messages m where m.destination_id = id and m.sequence = first returning m.*
            )
            insert into orderly.ends (destination_id, sequence, outcome, created_at, expires_at, attempts, last_error, content_type, headers, payload)
            select g.destination_id, g.sequence, 'skipped', g.created_at, g.expires_at,
                   case when claim.head_sequence = first then claim.head_attempts else 0 end,
                   case when claim.head_sequence = first then claim.last_error end, g.content_type, g.headers, g.payload
            from gone g;
            perform orderly.count_skips(id, first, 1);
            perform orderly.forget_head(id);
        end if;

    when 'purge' then
        -- In pieces: what was queued when it was asked for, up to `through`.
        with piece as (
            select m.sequence from orderly.messages m
            where m.destination_id = id and m.sequence > greatest(claim.floor, coalesce(in_flight, 0))
              and m.sequence <= coalesce((arguments ->> 'through')::bigint,
                                         (select s.last_value from orderly.message_sequence s))
            order by m.sequence limit 5000
        ), gone as (
            delete from orderly.messages m using piece p where m.destination_id = id and m.sequence = p.sequence returning m.sequence
        )
        select count(*), max(g.sequence) into removed, last from gone g;
        if removed > 0 then
            perform orderly.count_skips(id, last, removed);
        end if;
        if claim.head_sequence is distinct from in_flight then
            perform orderly.forget_head(id);
        end if;
        if removed = 5000 then
            return jsonb_build_object('status', 'more');
        end if;

    when 'lend' then
        -- For a test request of an API process, which takes the lock itself: the lane goes, unless it sends.
        if in_flight is not null then
            return jsonb_build_object('status', 'conflict', 'detail', 'the head is in flight');
        end if;
        return jsonb_build_object('status', 'lend');

    when 'reload' then
        null;

    when 'expire' then
        -- The sweep asks: what has expired behind a head that is tried again and again.
        if orderly.expire_queue(id, in_flight, most) >= most then
            return jsonb_build_object('status', 'more');
        end if;
    end case;
    return jsonb_build_object('status', 'ok');
end
$$;

-- For an API process: takes the lock for this transaction and acts, or answers busy. `request` is what it
-- asked before, if it did: under the lock nobody executes it, so it is withdrawn, or had been answered.
create function orderly.try_control(id bigint, kind text, arguments jsonb, request bigint) returns jsonb
    language plpgsql as $$
declare
    answer jsonb;
    done orderly.requests;
begin
    perform orderly.commit_durably();
    if not pg_try_advisory_xact_lock(orderly.destination_lock(id)) then
        return jsonb_build_object('status', 'busy');
    end if;
    if not coalesce((select orderly.is_free(c.owner, null) from orderly.claims c where c.destination_id = id), true) then
        -- Its owner lives and has no lock: Postgres restarted, and it may be sending (G3).
        return jsonb_build_object('status', 'busy');
    end if;
    if request is not null then
        delete from orderly.requests r where r.id = request returning r.* into done;
        if done.state = 'done' then
            return done.answer;
        end if;
    end if;
    answer := orderly.carry_out(id, kind, arguments, null);
    if answer ->> 'status' = 'ok' and kind in ('resume', 'retry_now', 'skip', 'delete_message', 'purge') then
        perform pg_notify('orderly', 'w' || id);
    end if;
    return answer;
end
$$;

-- Asks the holder, and rings. `within_ms` by this clock. Loans of a destination get their ids in the order of their
-- commits, under a lock: a borrower keeps away while an older one is pending, and must see it.
create function orderly.ask(id bigint, kind text, arguments jsonb, within_ms bigint) returns bigint
    language sql as $$
    select pg_advisory_xact_lock(orderly.idempotency_lock('lend ' || id)) where kind = 'lend';
    select pg_notify('orderly', 'r' || id);
    insert into orderly.requests (destination_id, kind, arguments, deadline)
    values (id, kind, arguments, clock_timestamp() + make_interval(secs => within_ms / 1000.0)) returning id
$$;

-- For an API process that is about to send a test request: the destination's lock for the transaction it is
-- called in, which must be explicit and is kept open while it sends. `idle_in_transaction_session_timeout`
-- bounds it should the process hang; no snapshot is held meanwhile. `request` is the `lend` it asked before: while that
-- is pending, claims keep away, also when this connection and the lock with it are lost; and so do later borrowers (G3).
create function orderly.borrow(id bigint, within_seconds double precision, request bigint) returns text
    language plpgsql as $$
#variable_conflict use_variable
begin
    if not pg_try_advisory_xact_lock(orderly.destination_lock(id)) then
        return 'busy';
    end if;
    if not coalesce((select orderly.is_free(c.owner, null) from orderly.claims c where c.destination_id = id), true) then
        return 'busy';
    end if;
    if exists (select from orderly.requests r where r.destination_id = id and r.state = 'pending' and r.kind = 'lend'
               and r.id < request and r.deadline > clock_timestamp()) then
        return 'busy';
    end if;
    if not exists (select from orderly.destinations d where d.id = id) then
        return 'not_found';
    end if;
    perform set_config('idle_in_transaction_session_timeout', ceil(within_seconds * 1000)::text, true);
    return 'ok';
end
$$;

-- Queues what was kept of delivered messages again, from a sequence on, at the tail and in order; a piece.
-- Locks: the queues row, waited for up to 2 s (1 s for each lock, and behind another waiter it is two). `through` keeps what a replay itself delivers out of it.
create function orderly.replay(destination bigint, above bigint, through bigint, most integer)
    returns table (status text, last bigint, queued bigint)
    language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
#variable_conflict use_column
declare
    queue orderly.queues;
    at timestamptz;
    room bigint := most;
begin
    perform orderly.commit_durably();
    perform orderly.stay_fenced();
    perform set_config('lock_timeout', '1s', true);
    select * into queue from orderly.queues q where q.destination_id = destination for no key update;
    if not found then
        return query select 'unknown', null::bigint, 0::bigint;
        return;
    elsif not queue.accepting then
        return query select 'disabled', null::bigint, 0::bigint;
        return;
    end if;
    at := clock_timestamp();
    if queue.max_depth is not null then
        room := queue.max_depth - (select count(*) from (select from orderly.messages m where m.destination_id = destination
            and m.expires_at > at limit queue.max_depth) waiting);
        if room <= 0 then
            return query select 'full', null::bigint, 0::bigint;
            return;
        end if;
    end if;
    return query
    with chosen as materialized (
        select k.* from orderly.kept k
        where k.destination_id = destination and k.sequence > above and k.sequence <= through
        order by k.sequence limit least(most, room)
    ), again as (
        insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, headers, payload, replay_of)
        select c.destination_id, nextval('orderly.message_sequence'), at, at + interval '1 day', false, c.content_type, c.headers,
               c.payload, c.sequence
        from (select * from chosen order by sequence) c
        returning replay_of
    )
    select 'queued', max(a.replay_of), count(*) from again a;
end
$$;

-- Looks for the answer; takes it away. With `withdraw`, takes the request away whatever became of it.
create function orderly.collect_answer(request bigint, withdraw boolean) returns jsonb
    language sql as $$
    delete from orderly.requests r where r.id = request and (withdraw or r.state = 'done') returning r.answer
$$;

-- For a lane: executes and answers in one transaction, if it is still wanted. Skips a row that its asker
-- is withdrawing in this instant, so the session never waits.
create function orderly.execute_request(request bigint, in_flight bigint) returns jsonb
    language plpgsql as $$
declare
    asked orderly.requests;
    outcome jsonb;
begin
    select * into asked from orderly.requests r
    where r.id = request and r.state = 'pending' and r.deadline > clock_timestamp() for update skip locked;
    if not found or asked.kind = 'yield' then
        return null;
    end if;
    outcome := orderly.carry_out(asked.destination_id, asked.kind, asked.arguments || '{"by_lane": true}', in_flight);
    if outcome ->> 'status' not in ('more', 'refused', 'lend') then
        update orderly.requests r set state = 'done', answer = outcome where r.id = request;
    end if;
    return outcome;
exception when lock_not_available or query_canceled then
    return null;
end
$$;

-- After a receiver's 410, for whoever holds the destination: both or neither, so that a POST is refused as soon
-- as the state says so. Locks: the queues row, waited for (an application's transaction may have it), then the
-- destination's, as resume and a removal do. A crash before the commit: the next try is answered with 410, too.
create function orderly.disable(id bigint) returns void
    language plpgsql as $$
begin
    perform orderly.commit_durably();
    perform set_config('lock_timeout', '1s', true);
    update orderly.queues q set accepting = false where q.destination_id = disable.id;
    update orderly.destinations d set state = 'disabled', updated_at = clock_timestamp() where d.id = disable.id;
end
$$;

-- Ends a destination, for an API process. Locks: the queues row, waited for (a producer may have it) up to 2 s, for it is
-- two behind another waiter; the advisory one, tried; then rows nobody else writes without those. In this order: whoever
-- serves it is asked to give it away, and aborts what is in flight, only when nothing else stands in the way. What it had
-- queued is out of reach with the commit, and removed in pieces after it.
create function orderly.remove_destination(id bigint, tenant text) returns text
    language plpgsql as $$
#variable_conflict use_variable
begin
    perform orderly.commit_durably();
    perform set_config('lock_timeout', '1s', true);
    if not exists (select from orderly.destinations d where d.id = id and (tenant is null or d.tenant = tenant)) then
        return 'not_found';
    end if;
    perform from orderly.queues q where q.destination_id = id for update;
    if not pg_try_advisory_xact_lock(orderly.destination_lock(id)) then
        return 'busy';
    end if;
    if not coalesce((select orderly.is_free(c.owner, null) from orderly.claims c where c.destination_id = id), true) then
        return 'busy';
    end if;
    delete from orderly.queues q where q.destination_id = id;
    delete from orderly.destinations d where d.id = id;
    delete from orderly.claims c where c.destination_id = id;
    delete from orderly.requests r where r.destination_id = id;
    delete from orderly.skips s where s.destination_id = id;
    insert into orderly.removals (destination_id) values (id) on conflict do nothing;
    return 'ok';
end
$$;

-- A piece of what destinations left behind; how many rows it took. Skips what another process is at.
create function orderly.remove_leftovers(most integer) returns bigint
    language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
    as $$
declare
    id bigint;
    taken bigint;
    total bigint := 0;
begin
    for id in select r.destination_id from orderly.removals r order by r.destination_id limit 10 for update skip locked loop
        delete from orderly.messages m using (
            select x.sequence from orderly.messages x where x.destination_id = id order by x.sequence limit most) p
        where m.destination_id = id and m.sequence = p.sequence;
        get diagnostics taken = row_count;
        total := total + taken;
        if taken = 0 then
            delete from orderly.ends e using (select x.sequence from orderly.ends x where x.destination_id = id limit most) p
            where e.destination_id = id and e.sequence = p.sequence;
            get diagnostics taken = row_count;
            total := total + taken;
        end if;
        if taken = 0 then
            delete from orderly.kept k using (select x.sequence from orderly.kept x where x.destination_id = id limit most) p
            where k.destination_id = id and k.sequence = p.sequence;
            get diagnostics taken = row_count;
            total := total + taken;
        end if;
        if taken = 0 then
            delete from orderly.removals r where r.destination_id = id;
            total := total + 1;
        end if;
        exit when total >= most;
    end loop;
    return total;
end
$$;
