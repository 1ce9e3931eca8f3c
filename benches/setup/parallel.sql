-- A table that is worth a parallel plan. The guest owns every tenth row.
create table measurements (id bigint not null, user_id uuid not null);
insert into measurements
select i, case when i % 10 = 0 then guest.id else '00000000-0000-7000-8000-000000000000' end
  from guest, generate_series(1, :rows) i;
alter table measurements enable row level security;
create policy own on measurements to authenticated using (user_id = auth.uid());
grant select on measurements to authenticated;
