//! What anon_auth does without Postgres.
