begin;
select auth.authenticate(:access_token);
set local max_parallel_workers_per_gather = 0;
select count(*) from measurements;
commit;
