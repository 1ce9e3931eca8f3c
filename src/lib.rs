//! anon_auth: anonymous authentication for Postgres.

pgrx::pg_module_magic!();
