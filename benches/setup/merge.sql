-- Ten tables of an application: 10,000 rows of a guest in each, 1,000 of an account, and as many of others.
create table people as
select name, session->>'access_token' as token, (session->'user'->>'id')::uuid as id
  from (select name, auth.sign_in_anonymously() as session
          from unnest(array['guest', 'account', 'somebody else']) name) signed_in;
update auth.users set is_anonymous = false where id = (select id from people where name = 'account');

select format('create table items_%s (id bigint generated always as identity primary key,
                   user_id uuid not null references auth.users on delete cascade, item int, body text)', n),
       format('insert into items_%1$s (user_id, item, body)
               select p.id, i, ''an item'' from people p, generate_series(1, case p.name when ''guest'' then %2$s else %2$s / 10 end) i', n, :rows),
       format('create index on items_%s (user_id)', n)
  from generate_series(1, 10) n \gexec
