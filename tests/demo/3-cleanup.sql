-- What pg_cron did, and as whom.
select jobname, username, status, return_message, start_time::time(0) as at
  from cron.job_run_details join cron.job using (jobid) order by start_time;
-- Grace and her note are gone, the others stay.
select raw_user_meta_data->>'name' as guest, created_at::date, is_anonymous from auth.users order by created_at;
select body from notes order by id;
