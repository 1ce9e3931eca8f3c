-- Writes what a rotation writes, row for row and byte for byte; the oldest of 32 replaced tokens goes.
\if :is_first
with guest as (
    insert into auth.users (id, is_anonymous) values (ordered_id(), true) returning id)
insert into auth.sessions (id, user_id, refresh_token_nonce)
select ordered_id(), id, uuid_send(gen_random_uuid()) from guest returning id as session \gset
\set is_first 0
\endif
update auth.sessions set refresh_token_counter = refresh_token_counter + 1,
    refresh_token_nonce = uuid_send(gen_random_uuid()), refreshed_at = clock_timestamp(),
    replaced_refresh_tokens = substr('\x0000000000000000' || refresh_token_nonce || replaced_refresh_tokens, 1, 768)
where id = :session;
