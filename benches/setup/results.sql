-- Samples and the lines of the table, as the run makes them.
create table samples (
    id bigint generated always as identity primary key,
    name text not null,
    unit text not null,
    value float8 not null
);
create table rows (
    n bigint generated always as identity primary key,
    what text not null,
    name text not null,
    yardstick_what text not null,
    yardstick text,
    target text not null
);
