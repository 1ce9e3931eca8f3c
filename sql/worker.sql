-- What the background worker keeps. No caller writes these tables, so none can hold a lock that it waits for.

-- How callers find the worker of this database. Of a process, so not logged.
create unlogged table auth.workers (
    library text primary key,
    segment bigint not null,
    started_at timestamptz not null
);
comment on table auth.workers is 'The background worker of this database, or the last one that it had';
comment on column auth.workers.library is 'Version of the library that the worker runs; during an update each version has one of its own';
comment on column auth.workers.started_at is 'When the worker was started';
comment on column auth.workers.segment is 'Dynamic shared memory in which it takes requests';

create table auth.guesses (
    id uuid primary key,
    count bigint not null,
    expires_at timestamptz not null
) with (fillfactor = 80);
create index guesses_expires_at_idx on auth.guesses (expires_at);
comment on table auth.guesses is 'Attempts at codes and passwords, and messages asked for, counted in transactions of their own; when they have expired, the worker deletes them as soon as there is anything to do for it';
comment on column auth.guesses.id is 'Hash of what was guessed at, or where a message went, and of the client''s address';
comment on column auth.guesses.expires_at is 'Until when they count, from the first one on';
comment on column auth.guesses.count is 'Attempts since the first one; one above the limit where a further one was refused';
