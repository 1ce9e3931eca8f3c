-- A note of every guest, which goes with the guest.
create table notes (id bigint generated always as identity primary key,
    user_id uuid not null references auth.users on delete cascade, body text not null);
insert into notes (user_id, body) select id, 'a note' from auth.users order by id;
create index on notes (user_id);
-- As autovacuum would have by then.
analyze notes;
