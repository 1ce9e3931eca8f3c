-- Writes docs/reference.md from the comments and the catalog of a database with the extension: `make reference`.
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset fieldsep ''

-- Text for a cell of a Markdown table.
create function pg_temp.cell(text) returns text language sql as $$
    select coalesce(replace(replace($1, '|', '\|'), E'\n', '<br>'), '')
$$;
-- A line of a comment that begins with this word.
create function pg_temp.part(comment text, word text) returns text language sql as $$
    select (regexp_match(comment, '(?:^|\n)' || word || ': ([^\n]*)'))[1]
$$;

create temp view functions as
select p.oid, p.proname::text as name, p.prokind, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
       obj_description(p.oid, 'pg_proc') as comment,
       has_function_privilege('public', p.oid, 'execute') as is_public,
       p.provolatile = 's' and p.proparallel = 's' as is_reader
  from pg_proc p
 where p.pronamespace = 'auth'::regnamespace and p.prorettype <> 'trigger'::regtype
   and obj_description(p.oid, 'pg_proc') ~ '\nExample: ';

select '# Reference

Made from the comments of the database by `make reference`; `\df+ auth.*` and `\d+ auth.*` show the same.

## Functions
';
select '### ' || title || E'\n' || string_agg(format(E'\n#### %s\n\n    %s(%s)%s\n\n%s\n', name, name, arguments,
           case prokind when 'p' then ' (a procedure)' else ' returns ' || result end, body), '' order by name)
  from (select case when is_public and is_reader then 1 when is_public then 2 else 3 end as place,
               case when is_public and is_reader then 'Readers, for policies'
                    when is_public then 'For clients' else 'For administrators' end as title,
               name, prokind, arguments, result,
               regexp_replace(regexp_replace(comment, '\nExample: ([^\n]*)', E'\n\n    \\1'),
                              '\n(Arguments|Errors): ', E'\n\n\\1: ', 'g') as body
          from functions) f
 group by place, title order by place;

select '## Settings

Kept in the database, changed with `auth.set_setting`, effective in every session at commit, part of a dump.

| setting | default | allowed | |
|---|---|---|---|';
select format('| `%s` | `%s`%s | %s | %s |', name, "default", ' ' || unit, pg_temp.cell(allowed), pg_temp.cell(description))
  from auth.all_settings order by name;

select '
## Settings of a connection, a role, a database or the server

As any setting of Postgres; `context` is Postgres''s word for who may change it.

| setting | default | context | |
|---|---|---|---|';
select format('| `%s` | %s | %s | %s |', name, case when boot_val <> '' then '`' || boot_val || '`' end, context,
              pg_temp.cell(concat_ws(' ', short_desc || '.', extra_desc)))
  from pg_settings where name like 'anon\_auth.%' order by name;

select '
## Errors

An error has a SQLSTATE `PTnnn`, where nnn is an HTTP status, and a message that begins with the code. A HINT says what
to do, where there is something to do. Where PostgREST asks, an error with the status 429 has PostgREST''s own form, so
that the answer gets the header `Retry-After`: SQLSTATE `PGRST`, the error as a JSON object in the message.

In a read-only transaction or on a standby, functions that write fail with Postgres''s own 25006; readers and
`authenticate` work, and with `guest_storage` = `lazy` so does anonymous sign-in. In a REPEATABLE READ transaction a lost
race is Postgres''s own 40001: run it again. Under SERIALIZABLE, a refresh may meet it for nothing but other users''
sign-ins: call these functions under READ COMMITTED.

| SQLSTATE | code | raised by | when |
|---|---|---|---|';
with found as (
    -- "one_code, another (PT400: when that is)".
    select f.name, m[1] as codes, m[2] as sqlstate, m[3] as reason
      from functions f,
           regexp_matches(pg_temp.part(f.comment, 'Errors'),
                          '((?:[a-z_]+(?:, | and | or ))*[a-z_]+) \((PT\d{3})(?:: ([^()]*(?:\([^()]*\)[^()]*)*))?\)', 'g') m
)
select format('| %s | `%s` | %s | %s |', sqlstate, code, string_agg(distinct '`' || name || '`', ', '),
              pg_temp.cell(string_agg(distinct reason, '; ')))
  from found, regexp_split_to_table(codes, ', | and | or ') code
 group by sqlstate, code order by sqlstate, code;

select '
## Tables and views
';
select format(E'### %s\n\n%s\n\n| column | type | |\n|---|---|---|\n%s\n', c.relname, obj_description(c.oid, 'pg_class'),
              string_agg(format('| `%s` | %s | %s |', a.attname, format_type(a.atttypid, a.atttypmod),
                                pg_temp.cell(col_description(c.oid, a.attnum))), E'\n' order by a.attnum))
  from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'v')
 group by c.oid, c.relname order by c.relname;
