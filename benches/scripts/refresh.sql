\if :is_first
select auth.sign_in_anonymously()->>'refresh_token' as token \gset
\set is_first 0
\endif
select auth.refresh_session(:token)->>'refresh_token' as token \gset
