-- What happened that somebody may have to answer for. A sign-in is its session row, not an entry here.

create table auth.audit_log_entries (
    id uuid primary key default gen_random_uuid(),
    created_at timestamptz not null default clock_timestamp(),
    action text not null,
    user_id uuid,
    payload jsonb not null default '{}'
);
create index audit_log_entries_created_at_idx on auth.audit_log_entries (created_at);

comment on table auth.audit_log_entries is 'Audit log, kept for audit_log_retention: session_revoked, attempt_limit_reached, user_promoted, identity_linked, identity_unlinked, password_changed, user_deleted, signing_key_created, signing_key_rotated, signing_key_revoked, setting_changed, identity_provider_changed, identity_provider_keys_changed, identity_provider_removed, hook_set, cleanup, user_merged, users_imported, device_key_registered, device_key_removed, captcha_changed, captcha_removed, guest_provider_changed, guest_provider_removed';
comment on column auth.audit_log_entries.user_id is 'User that the entry is about; kept when the user is deleted';
comment on column auth.audit_log_entries.payload is 'Details, never a secret';
