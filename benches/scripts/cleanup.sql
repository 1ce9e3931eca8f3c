select auth.cleanup_expired_users();
