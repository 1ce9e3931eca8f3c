begin;
select auth.authenticate(:access_token);
select count(*) from documents;
commit;
