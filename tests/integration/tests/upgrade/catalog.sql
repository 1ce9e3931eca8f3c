-- The extension in this database, as rows of object, property and value; the order of columns and grants, which
-- means nothing, is left out, and what Postgres itself notes about a column (pg_attver).
with extension as (
    select * from pg_extension where extname = 'anon_auth'
), members as (
    select d.classid, d.objid, format('%s %s', i.type, i.identity) as name
      from extension e
      join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
      cross join pg_identify_object(d.classid, d.objid, 0) i
), relations as (
    select m.name, c.* from members m join pg_class c on m.classid = 'pg_class'::regclass and c.oid = m.objid
), functions as (
    select m.name, p.* from members m join pg_proc p on m.classid = 'pg_proc'::regclass and p.oid = m.objid
), acls as (
    select 'schema auth' as name, nspowner as owner, nspacl as acl from pg_namespace where nspname = 'auth'
    union all
    select name, relowner, coalesce(relacl, acldefault('r', relowner)) from relations
    union all
    select name, proowner, coalesce(proacl, acldefault('f', proowner)) from functions
    union all
    select format('column %s.%s', c.name, a.attname), c.relowner, a.attacl
      from relations c join pg_attribute a on a.attrelid = c.oid and a.attacl is not null
)
select 'extension' as object, 'version' as property, extversion as value from extension
union all
select 'extension', 'schema', extnamespace::regnamespace::text from extension
union all
select 'extension', 'comment', obj_description(oid, 'pg_extension') from extension
union all
select 'table ' || c.oid::regclass, 'dump registration', format('where "%s"', c.condition)
  from extension, unnest(extconfig, extcondition) c(oid, condition)
union all
select name, 'membership', 'member' from members
union all
select coalesce(m.name, 'schema auth') || coalesce('.' || a.attname, ''), 'comment', d.description
  from pg_description d
  left join members m on m.classid = d.classoid and m.objid = d.objoid
  left join pg_attribute a on d.classoid = 'pg_class'::regclass and a.attrelid = d.objoid and a.attnum = d.objsubid and a.attnum > 0
 where m.objid is not null or d.classoid = 'pg_namespace'::regclass and d.objoid = 'auth'::regnamespace
union all
select name, 'owner', owner::regrole::text from acls
union all
select name, 'privileges', array(select a::text from unnest(acl) a order by 1)::text from acls
union all
-- What a dump takes for given; where nothing is noted, the default.
select o.name, 'privileges at installation', array(select a::text from unnest(coalesce(p.initprivs, o.standard)) a order by 1)::text
  from (select name, 'pg_class'::regclass as classid, oid, acldefault('r', relowner) as standard from relations
        union all
        select name, 'pg_proc'::regclass, oid, acldefault('f', proowner) from functions) o
  left join pg_init_privs p on p.classoid = o.classid and p.objoid = o.oid and p.objsubid = 0
union all
select format('column %s.%s', c.name, a.attname), 'privileges at installation',
       array(select g::text from unnest(p.initprivs) g order by 1)::text
  from relations c
  join pg_init_privs p on p.classoid = 'pg_class'::regclass and p.objoid = c.oid and p.objsubid > 0
  join pg_attribute a on a.attrelid = c.oid and a.attnum = p.objsubid
union all
select name, 'kind', format('%s, %s, row security %s and %s, identity %s, %s', relkind, relpersistence, relrowsecurity,
                            relforcerowsecurity, relreplident, reloptions)
  from relations
union all
select format('column %s.%s', c.name, a.attname), 'definition',
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end, 'collation', a.attcollation,
                 'storage', a.attstorage, 'compression', a.attcompression, 'identity', a.attidentity,
                 'generated', a.attgenerated, pg_get_expr(f.adbin, f.adrelid),
                 (select string_agg(o, ' ') from unnest(a.attoptions) o where o not like 'pg\_attver=%'))
  from relations c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef f on f.adrelid = c.oid and f.adnum = a.attnum
union all
select format('constraint %s on %s', k.conname, c.name), 'definition', pg_get_constraintdef(k.oid)
  from relations c join pg_constraint k on k.conrelid = c.oid
union all
select format('index %s on %s', x.relname, c.name), 'definition',
       format('%s, owner %s, clustered %s', pg_get_indexdef(x.oid), x.relowner::regrole, i.indisclustered)
  from relations c join pg_index i on i.indrelid = c.oid join pg_class x on x.oid = i.indexrelid
union all
select format('trigger %s on %s', t.tgname, c.name), 'definition', format('%s, %s', pg_get_triggerdef(t.oid), t.tgenabled)
  from relations c join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal
union all
select name, 'definition', pg_get_viewdef(oid) from relations where relkind = 'v'
union all
select format('rule %s on %s', r.rulename, c.name), 'definition', pg_get_ruledef(r.oid)
  from relations c join pg_rewrite r on r.ev_class = c.oid and r.rulename <> '_RETURN'
union all
select format('policy %s on %s', p.polname, c.name), 'definition',
       concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  from relations c join pg_policy p on p.polrelid = c.oid
union all
select name, 'definition', pg_get_functiondef(oid) from functions
union all
select format('sequence %s', c.name), 'definition', s::text
  from relations c join pg_sequences s on s.schemaname = 'auth' and s.sequencename = c.relname
union all
select format('%s %s of %s', i.kind, i.name, i.relation), 'installed part', 'listed' from auth.installed_parts i
