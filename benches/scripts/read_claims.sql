\set id 100 * random(1, :owned)
begin;
select set_config('request.jwt.claims', :claims, true);
select body from documents where id = :id;
commit;
