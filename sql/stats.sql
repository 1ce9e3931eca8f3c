-- The funnel: what became of guests, by day (UTC).
--
-- A sign-in writes nothing here. What is still to be seen in auth.users is counted there, by index; what is not to be
-- seen there any more leaves a row in auth.stat_changes, which nobody else waits for. Clean-up adds up the days that are
-- over, once each, in one statement: so that every change is either among the rows that it sees or among the users.

create table auth.daily_stats (
    day date primary key,
    guests_created bigint not null default 0,
    guests_active bigint not null default 0,
    guests_promoted bigint not null default 0,
    guests_merged bigint not null default 0,
    guests_expired bigint not null default 0,
    guests_deleted bigint not null default 0,
    users_created bigint not null default 0
);
comment on table auth.daily_stats is 'Days that are over and were added up; see the view auth.stats';

create table auth.stat_changes (
    id uuid primary key default gen_random_uuid(),
    day date not null,
    guests_created bigint not null default 0,
    guests_active bigint not null default 0,
    guests_promoted bigint not null default 0,
    guests_merged bigint not null default 0,
    guests_expired bigint not null default 0,
    guests_deleted bigint not null default 0,
    users_created bigint not null default 0
);
create index stat_changes_day_idx on auth.stat_changes (day);
comment on table auth.stat_changes is 'What happened since the last day that was added up and auth.users does not show; to be added to what it does show';

create view auth.last_closed_day as
select coalesce(max(day), '0001-01-01') as day from auth.daily_stats;
comment on view auth.last_closed_day is 'The last day that was added up; up to it auth.users is not looked at';

create function auth.count_changed_user() returns trigger
    language plpgsql security definer set search_path = pg_catalog, auth, pg_temp
as $$
declare
    closed constant date := (select day from auth.last_closed_day);
    created_on constant date := (old.created_at at time zone 'UTC')::date;
    was_active_on constant date := coalesce(old.last_active_on, created_on);
    is_active_on constant date := coalesce(new.last_active_on, created_on);
    was_counted constant boolean := old.is_anonymous and old.cleanup_blocked_at is null;
    is_counted constant boolean := new.is_anonymous and new.cleanup_blocked_at is null;
begin
    if old.is_anonymous and not new.is_anonymous then
        insert into auth.stat_changes (day, guests_promoted) values ((clock_timestamp() at time zone 'UTC')::date, 1);
    end if;
    if old.is_anonymous <> new.is_anonymous and created_on > closed then
        -- Still created as what it was.
        insert into auth.stat_changes (day, guests_created, users_created)
        values (created_on, old.is_anonymous::integer - new.is_anonymous::integer, new.is_anonymous::integer - old.is_anonymous::integer);
    end if;
    if was_active_on > closed then
        if was_counted and (not is_counted or is_active_on <> was_active_on) then
            insert into auth.stat_changes (day, guests_active) values (was_active_on, 1);
        elsif old.is_anonymous and not was_counted and is_counted and is_active_on = was_active_on then
            insert into auth.stat_changes (day, guests_active) values (was_active_on, -1);
        end if;
    end if;
    return null;
end
$$;
comment on function auth.count_changed_user() is 'Trigger: notes for auth.stats what auth.users does not show any more of a changed user';

create trigger count_changed_user after update on auth.users
    for each row
    when (old.is_anonymous <> new.is_anonymous
          or old.is_anonymous and (old.last_active_on is distinct from new.last_active_on
                                   or (old.cleanup_blocked_at is null) <> (new.cleanup_blocked_at is null)))
    execute function auth.count_changed_user();
alter table auth.users enable always trigger count_changed_user;

create function auth.count_deleted_users() returns trigger
    language plpgsql security definer set search_path = pg_catalog, auth, pg_temp
as $$
declare
    closed constant date := (select day from auth.last_closed_day);
begin
    insert into auth.stat_changes (day, guests_created, guests_active, guests_deleted, users_created)
    select d.day, sum(d.guests_created), sum(d.guests_active), sum(d.guests_deleted), sum(d.users_created)
      from (select (clock_timestamp() at time zone 'UTC')::date as day, 0 as guests_created, 0 as guests_active, 1 as guests_deleted, 0 as users_created
              from deleted
             where is_anonymous
            union all
            select (created_at at time zone 'UTC')::date, is_anonymous::integer, 0, 0, 1 - is_anonymous::integer
              from deleted
             where (created_at at time zone 'UTC')::date > closed
            union all
            select coalesce(last_active_on, (created_at at time zone 'UTC')::date), 0, 1, 0, 0
              from deleted
             where is_anonymous and cleanup_blocked_at is null
               and coalesce(last_active_on, (created_at at time zone 'UTC')::date) > closed) d
     group by d.day;
    return null;
end
$$;
comment on function auth.count_deleted_users() is 'Trigger: notes for auth.stats what auth.users does not show any more of deleted users';

create trigger count_deleted_users after delete on auth.users
    referencing old table as deleted
    for each statement execute function auth.count_deleted_users();
alter table auth.users enable always trigger count_deleted_users;

-- What auth.users shows of the days that have not been added up.
create view auth.open_days as
select (created_at at time zone 'UTC')::date as day, count(*) as guests_created, 0::bigint as guests_active, 0::bigint as users_created
  from auth.users
 where is_anonymous and created_at >= (select (day + 1)::timestamp at time zone 'UTC' from auth.last_closed_day)
 group by 1
union all
select (created_at at time zone 'UTC')::date, 0, 0, count(*)
  from auth.users
 where not is_anonymous and created_at >= (select (day + 1)::timestamp at time zone 'UTC' from auth.last_closed_day)
 group by 1
union all
select coalesce(last_active_on, (created_at at time zone 'UTC')::date), 0, count(*), 0
  from auth.users
 where is_anonymous and cleanup_blocked_at is null
   and coalesce(last_active_on, (created_at at time zone 'UTC')::date) > (select day from auth.last_closed_day)
 group by 1;
comment on view auth.open_days is 'Users created and guests active on days that have not been added up, as far as auth.users shows them';

create view auth.stats as
with counted as (
    select day, guests_created, guests_active, guests_promoted, guests_merged, guests_expired, guests_deleted, users_created
      from auth.daily_stats
    union all
    select day, guests_created, guests_active, 0, 0, 0, 0, users_created
      from auth.open_days
    union all
    -- What ended after its day had been added up counts all the same.
    select c.day,
           case when c.day > closed.day then c.guests_created else 0 end,
           case when c.day > closed.day then c.guests_active else 0 end,
           c.guests_promoted, c.guests_merged, c.guests_expired, c.guests_deleted,
           case when c.day > closed.day then c.users_created else 0 end
      from auth.stat_changes c, auth.last_closed_day closed
)
select c.day,
       sum(c.guests_created)::bigint as guests_created,
       sum(c.guests_active)::bigint as guests_active,
       sum(c.guests_promoted)::bigint as guests_promoted,
       sum(c.guests_merged)::bigint as guests_merged,
       sum(c.guests_expired)::bigint as guests_expired,
       sum(c.guests_deleted)::bigint as guests_deleted,
       sum(c.users_created)::bigint as users_created,
       c.day <= (select day from auth.last_closed_day) as is_closed
  from counted c
 group by c.day
having (sum(c.guests_created), sum(c.guests_active), sum(c.guests_promoted), sum(c.guests_merged), sum(c.guests_expired), sum(c.guests_deleted), sum(c.users_created))
       is distinct from (0, 0, 0, 0, 0, 0, 0)
 order by c.day;
comment on view auth.stats is
'What became of guests, a row for each day (UTC) on which anything happened. For members of pg_monitor and service_role.
Example: select * from auth.stats where day > current_date - 30;';
comment on column auth.stats.day is 'Day, in UTC';
comment on column auth.stats.guests_created is 'Guests created on that day, whatever became of them';
comment on column auth.stats.guests_active is 'Guests created on that day, or who refreshed a session or signed in again on it while they were guests';
comment on column auth.stats.guests_promoted is 'Guests who became permanent users on that day';
comment on column auth.stats.guests_merged is 'Guests merged into an account on that day';
comment on column auth.stats.guests_expired is 'Guests whom clean-up deleted on that day';
comment on column auth.stats.guests_deleted is 'Guests deleted on that day in any other way: by themselves, or by an administrator';
comment on column auth.stats.users_created is 'Users created on that day who were permanent from the start';
comment on column auth.stats.is_closed is 'Whether clean-up has added the day up: then it stays as it is';
