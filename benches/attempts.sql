-- What does the log of tries cost an acknowledgement? On a migrated database to throw away:
--   psql "$DATABASE_URL" -f benches/attempts.sql
-- Prints microseconds of the server for each message, with the log and without it, in turn.

\set ON_ERROR_STOP 1
set synchronous_commit = off; -- the disk is not what is asked about
insert into orderly.messages select 1+(g%1000), g, now(), now()+interval '1 day', false, 'application/json', null, convert_to(repeat('x',500),'UTF8') from generate_series(1,400000) g;
analyze orderly.messages;
set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; -- as a worker's session has them
set plan_cache_mode = force_generic_plan; set jit = off;
create function without(destination_ids bigint[], sequences bigint[]) returns bigint language plpgsql as $$
declare n bigint; begin
 delete from orderly.messages m using unnest(destination_ids, sequences) as i (destination_id, sequence) where m.destination_id = i.destination_id and m.sequence = i.sequence;
 get diagnostics n = row_count; return n; end $$;
create procedure run(kind text, first int, batches int, size int) language plpgsql as $$
declare b int; t timestamptz := clock_timestamp(); d bigint[]; s bigint[]; n bigint := 0;
begin
 for b in 0..batches-1 loop
  select array_agg(1+(g%1000) order by 1+(g%1000)), array_agg(g::bigint order by 1+(g%1000)) into d, s from generate_series(first+b*size, first+(b+1)*size-1) g;
  if kind='with' then n := n + orderly.acknowledge(array_fill('d'::text,array[size]), d, s, array_fill(1,array[size]), array_fill(200::smallint,array[size]), array_fill(null::text,array[size]), array_fill(5,array[size]), array_fill(null::bytea,array[size]), array_fill(0::bigint,array[size]), size, false);
  else n := n + without(d,s); end if;
  commit;
 end loop;
 raise notice '% size %: % rows, % us/row', kind, size, n, round(extract(epoch from clock_timestamp()-t)*1000000/(batches*size),1);
end $$;
call run('with',1,200,100); call run('without',20001,200,100); call run('with',40001,200,100); call run('without',60001,200,100); call run('with',80001,200,100); call run('without',100001,200,100);
call run('with',120001,40,500); call run('without',140001,40,500); call run('with',160001,40,500); call run('without',180001,40,500);
