-- Prints the table in Markdown, then all of it as one line of JSON.

-- As few digits as tell.
create function shown(x float8, unit text) returns text language sql immutable as $$
    select trim_scale(round(x::numeric, case when abs(x) >= 100 then 0 when abs(x) >= 10 then 1 when abs(x) >= 1 then 2 else 3 end))
           || case when unit ~ '^(/|$)' then unit else ' ' || unit end
$$;

create view figures as
select name, min(unit) as unit, percentile_cont(0.5) within group (order by value) as median,
       min(value) as lowest, max(value) as highest, array_agg(value order by id) as samples
  from samples group by name;

create view results as
select r.n, r.what, f.unit, f.median, f.lowest, f.highest, f.samples,
       r.yardstick_what, y.median as yardstick_median, y.lowest as yardstick_lowest, y.highest as yardstick_highest,
       y.samples as yardstick_samples, f.median / nullif(y.median, 0) as ratio, r.target,
       case split_part(r.target, ' ', 2)
           when '<=' then t.value <= split_part(r.target, ' ', 3)::float8
           when '<' then t.value < split_part(r.target, ' ', 3)::float8
           when '>=' then t.value >= split_part(r.target, ' ', 3)::float8
       end as met
  from rows r
  join figures f on f.name = r.name
  left join figures y on y.name = r.yardstick,
  lateral (select case split_part(r.target, ' ', 1)
                      when 'ratio' then f.median / nullif(y.median, 0) when 'value' then f.median end as value) t;

create view cells as
select n, array[
    what,
    shown(median, unit), case when lowest < highest then shown(lowest, '') || ' – ' || shown(highest, '') else '' end,
    yardstick_what,
    coalesce(shown(yardstick_median, unit), ''),
    case when yardstick_lowest < yardstick_highest then shown(yardstick_lowest, '') || ' – ' || shown(yardstick_highest, '') else '' end,
    coalesce(round(ratio::numeric, case when ratio < 10 then 2 else 0 end)::text, ''),
    replace(replace(regexp_replace(target, '^(ratio|value) ', ''), '<=', '≤'), '>=', '≥') || case when target like 'value%' then ' ' || unit else '' end,
    case met when true then 'yes' when false then '**missed**' else '' end] as cell
  from results
union all
select 0, array['measured', 'median', 'range', 'yardstick', 'median', 'range', 'ratio', 'target', 'met'];

select 'Machine: ' || :'machine' || '. Medians of ' || :rounds || ' rounds; the run took ' || :seconds || ' seconds'
       || case when :scale > 1 then ', at 1/' || :scale || ' of the size: **not for comparison**' else '' end || '.';
select '';
with widths as (
    select i, max(length(cell[i])) as width from cells, generate_series(1, 9) i group by i
), lines as (
    select n, '| ' || string_agg(case when i in (1, 4) then rpad(cell[i], width) else lpad(cell[i], width) end, ' | ' order by i) || ' |' as line
      from cells, widths group by n
    union all
    select 0.5, '|' || string_agg(case when i in (1, 4) then repeat('-', width + 2) else repeat('-', width + 1) || ':' end, '|' order by i) || '|'
      from widths
)
select line from lines order by n;

select jsonb_build_object('machine', :'machine', 'rounds', :rounds, 'seconds', :seconds, 'scale', :scale,
                          'rows', jsonb_agg(to_jsonb(results) order by n))
  from results;
