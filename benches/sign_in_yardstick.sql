with guest as (
    insert into auth.users (id, raw_user_meta_data, is_anonymous, created_at, updated_at, last_sign_in_at)
    values (ordered_id(), '{}', true, now(), now(), now()) returning id)
insert into auth.sessions (id, user_id, refresh_token_nonce)
select ordered_id(), id, uuid_send(gen_random_uuid()) from guest;
