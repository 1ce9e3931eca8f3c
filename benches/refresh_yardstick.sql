\if :is_first
select id as session from auth.sessions order by id limit 1 offset :client_id \gset
\set is_first 0
\endif
update auth.sessions set refresh_token_counter = refresh_token_counter + 1,
    refresh_token_nonce = uuid_send(gen_random_uuid()), refreshed_at = clock_timestamp()
where id = :session;
