begin;
select set_config('request.jwt.claims', :claims, true);
select count(*) from documents;
commit;
