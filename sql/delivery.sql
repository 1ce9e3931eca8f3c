-- Messages to users, for workers that send them. Not in a dump: the codes in them are in the clear, or sealed with
-- a key that a dump does not have, and good for an hour.

create table auth.messages (
    id uuid primary key,
    user_id uuid not null,
    channel text not null,
    recipient text not null,
    purpose text not null,
    status text not null default 'pending',
    secret bytea,
    sealed boolean not null,
    attempts integer not null default 0,
    last_error text,
    created_at timestamptz not null,
    available_at timestamptz not null,
    expires_at timestamptz not null,
    finished_at timestamptz,
    constraint messages_channel_check check (channel in ('email', 'sms')),
    constraint messages_status_check check (status in ('pending', 'sent', 'failed', 'expired', 'superseded')),
    constraint messages_secret_check check ((secret is null) = (status <> 'pending')),
    constraint messages_finished_at_check check ((finished_at is null) = (status = 'pending'))
);
create index messages_user_id_idx on auth.messages (user_id);
create index messages_available_at_idx on auth.messages (available_at) where status = 'pending';
create index messages_expires_at_idx on auth.messages (expires_at) where status = 'pending';
create index messages_finished_at_idx on auth.messages (finished_at);

comment on table auth.messages is 'Messages to users that a worker is to send, or has sent. In no dump.';
comment on column auth.messages.channel is 'email or sms';
comment on column auth.messages.recipient is 'Address or number, normalised';
comment on column auth.messages.attempts is 'How often a worker has claimed it';
comment on column auth.messages.last_error is 'Why a worker could not send it, in the words of auth.fail_message()';
comment on column auth.messages.finished_at is 'When it was sent, given up, superseded, or expired';
comment on column auth.messages.purpose is 'What its code is for: email_change, phone_change, …';
comment on column auth.messages.status is 'pending (to be sent, maybe claimed by a worker), sent, failed (given up), expired, superseded (a newer message took its place, or its code became void)';
comment on column auth.messages.secret is 'The code and the token hash of the link, until the message is sent or given up';
comment on column auth.messages.sealed is 'Whether secret is encrypted with the key in anon_auth.key_file (AES-256-GCM-SIV, RFC 8452)';
comment on column auth.messages.available_at is 'When a worker may claim it; if one has, the end of its lease';
comment on column auth.messages.expires_at is 'When its code expires';

create view auth.outbox as
select id, user_id, channel, recipient, purpose, status, attempts, last_error, created_at, available_at, expires_at, finished_at
  from auth.messages;
comment on view auth.outbox is 'Messages to users and what became of them, without their codes';

create function auth.claim_messages(n integer default 10, lease interval default '1 minute', channel text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_claim_messages';
comment on function auth.claim_messages(integer, interval, text) is
'Hands messages that are due to a worker, each to one worker only until the lease ends, and returns them as an array of objects: id, channel, to, attempt, created_at, expires_at, and what the hooks send_email and send_sms get: user, and email_data or sms. Commit, send them, then call auth.acknowledge_message() or auth.fail_message() for each. LISTEN anon_auth_messages tells of new ones.
Arguments: n, how many at the most, 1 to 1000; lease, 1 second to 1 day, after which a message that was not acknowledged is handed out again; channel, email or sms, NULL for both.
Errors: validation_failed (PT400), signing_key_unavailable (PT500: a message is sealed, and anon_auth.key_file cannot be read).
Example: select auth.claim_messages(10, ''1 minute'', ''email'');';

create function auth.acknowledge_message(id uuid) returns boolean
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_acknowledge_message';
comment on function auth.acknowledge_message(uuid) is
'Notes that a message was sent, and erases its codes. Returns whether it was still to be sent.
Arguments: id, as auth.claim_messages() returned it.
Errors: validation_failed (PT400).
Example: select auth.acknowledge_message($1);';

create function auth.fail_message(id uuid, reason text default null, retry boolean default true) returns boolean
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_fail_message';
comment on function auth.fail_message(uuid, text, boolean) is
'Notes that a message could not be sent. It is handed out again after 10 seconds, and after twice as long each time, until its code expires. Returns whether it will be.
Arguments: id, as auth.claim_messages() returned it; reason, for auth.outbox, without the code; retry, false to give it up (its codes are erased).
Errors: validation_failed (PT400).
Example: select auth.fail_message($1, ''connection refused'');';
