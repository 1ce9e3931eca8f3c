-- The readers: what policies call, on every row if need be. Plain C functions without a SET clause, since that
-- alone costs more than everything else they do; they run no SQL that a search_path could redirect.

create function auth.jwt() returns jsonb
    language c stable parallel safe as 'MODULE_PATHNAME', 'anon_auth_jwt';
comment on function auth.jwt() is
'The verified claims of this transaction''s access token, with is_anonymous, email and phone as they are now; NULL without a valid token.
Example: create policy p on orders as restrictive for insert to authenticated with check ((auth.jwt()->>''is_anonymous'')::boolean is false);';

create function auth.uid() returns uuid
    language c stable parallel safe as 'MODULE_PATHNAME', 'anon_auth_uid';
comment on function auth.uid() is
'Id of the signed-in user (the claim sub); NULL without a valid token.
Example: create policy own on notes to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid());';

create function auth.role() returns text
    language c stable parallel safe as 'MODULE_PATHNAME', 'anon_auth_role';
comment on function auth.role() is
'Role of the signed-in user (the claim role); NULL without a valid token.
Example: select auth.role();';

create function auth.email() returns text
    language c stable parallel safe as 'MODULE_PATHNAME', 'anon_auth_email';
comment on function auth.email() is
'E-mail address of the signed-in user as it is now; NULL if there is none, or without a valid token.
Example: select auth.email();';

create function auth.is_anonymous() returns boolean
    language c stable parallel safe as 'MODULE_PATHNAME', 'anon_auth_is_anonymous';
comment on function auth.is_anonymous() is
'True for a guest, false for a permanent user, as it is now; NULL without a valid token. Write "auth.is_anonymous() is false" to let permanent users in.
Example: create policy members_only on posts as restrictive for insert to authenticated with check (auth.is_anonymous() is false);';

create function auth.session_id() returns uuid
    language c stable parallel safe as 'MODULE_PATHNAME', 'anon_auth_session_id';
comment on function auth.session_id() is
'Id of the session that the access token belongs to; NULL without a valid token.
Example: select auth.session_id();';
