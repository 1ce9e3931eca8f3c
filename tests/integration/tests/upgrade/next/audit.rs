
crate::sql_function!(anon_auth_audit_log_size, |_| Ok(1_i64));
