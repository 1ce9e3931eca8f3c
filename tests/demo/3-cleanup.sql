-- What pg_cron did, and as whom.
select j.jobname, j.username, d.status, d.start_time::time(0) as at
  from cron.job_run_details d join cron.job j using (jobid) order by d.start_time;
-- Grace and her note are gone, the others stay.
select raw_user_meta_data->>'name' as guest, created_at::date, is_anonymous from auth.users order by created_at;
select body from notes order by id;
