-- All of pgbench comes from one client.
insert into auth.settings (name, value) select name, '0' from auth.all_settings where name like '%\_rate\_limit';

-- What pgbench is told: the token of a guest, and the claims that customary readers would take.
create table guest as
select id, access_token, auth.verify_token(access_token)::text as claims
  from (select (answer->'user'->>'id')::uuid as id, answer->>'access_token' as access_token
          from auth.sign_in_anonymously() answer) session;

-- Ids in the order of time, as the extension makes them, so that the yardsticks' indexes stay local too.
create function ordered_id() returns uuid language sql volatile as $$
    select (lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0')
            || substr(gen_random_uuid()::text, 14))::uuid
$$;
