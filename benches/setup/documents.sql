-- Documents of a hundred guests, without an index on their owner. The guest owns every hundredth.
create table documents (id bigint primary key, user_id uuid not null, body text not null);
insert into documents
select i, case when i % 100 = 0 then guest.id else ('00000000-0000-7000-8000-' || lpad((i % 100)::text, 12, '0'))::uuid end,
       'document ' || i
  from guest, generate_series(1, :rows) i;

-- The customary readers: SQL functions over the claims that PostgREST sets, as Supabase Auth made them customary.
create schema customary;
create function customary.uid() returns uuid language sql stable as $$
    select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                    nullif(current_setting('request.jwt.claims', true), '')::jsonb->>'sub')::uuid
$$;
grant usage on schema customary to customary;

alter table documents enable row level security;
create policy own on documents to authenticated using (user_id = auth.uid());
create policy customary on documents to customary using (user_id = customary.uid());
create policy either on documents to either, either_once
    using (user_id = auth.uid() or (auth.jwt()->>'is_anonymous')::boolean is false);
create policy either_wrapped on documents to either_wrapped
    using (user_id = (select auth.uid()) or (select (auth.jwt()->>'is_anonymous')::boolean is false));
select format('create policy literal on documents to literal using (user_id = %L)', id) from guest \gexec
grant select on documents to authenticated, literal, customary, either, either_once, either_wrapped;
