with guest as (
    insert into auth.users (id, aud, raw_user_meta_data, is_anonymous, created_at, updated_at, last_sign_in_at)
    values (ordered_id(), 'authenticated', '{}', true, now(), now(), now()) returning id)
insert into auth.sessions (id, user_id, created_at, refreshed_at, refresh_token_nonce)
select ordered_id(), id, now(), now(), uuid_send(gen_random_uuid()) from guest;
