-- Keys: who may call the API, where access control is on.
--
-- They belong to no event, unlike everything else. A row is never deleted: the journal and other
-- rows name it.
create table keys (
    -- The public part of the key.
    id            text         not null,
    -- SHA-256 of the secret part. The secret is random and long, so that nothing slower is needed.
    secret_sha256 bytea        not null,
    name          text         not null,
    scope         text         not null,
    -- Whose reservations it is about.
    partner_id    partner_id,
    created_at    timestamptz  not null default clock_timestamp(),
    -- The operator's key that it was made with; empty for the command line.
    made_by       text,
    expires_at    timestamptz,
    revoked_at    timestamptz,
    revoked_by    text,
    -- To some seconds: replicas write down what was used once in a while.
    last_used_at  timestamptz,
    -- When it was made or revoked. Replicas know all keys, and look for what is new.
    changed_at    timestamptz  not null default clock_timestamp(),

    constraint keys_pkey primary key (id),

    -- What an `Authorization` header can say.
    constraint keys_id_is_hexadecimal
        check (id ~ '^[0-9a-f]{16}$'),
    constraint keys_secret_is_a_sha256
        check (octet_length(secret_sha256) = 32),
    constraint keys_name_is_sane
        check (char_length(name) between 1 and 128),
    constraint keys_scope_known
        check (scope in ('partner', 'read', 'operator')),
    -- A partner's key without its partner would be everybody's.
    constraint keys_partner_has_an_id
        check ((scope = 'partner') = (partner_id is not null)),
    constraint keys_revoked_by_when
        check (revoked_by is null or revoked_at is not null)
)
-- `last_used_at` is written again and again, and has no index: with room on the page, that touches
-- no index at all.
with (fillfactor = 70);

-- What is new since the last look.
create index keys_changed on keys (changed_at);

-- Not even who may write to the table brings a key back: a new one leaves a trace.
create function keep_revoked() returns trigger language plpgsql as $$
begin
    raise exception 'key % stays revoked', old.id using errcode = 'insufficient_privilege';
end $$;
create trigger keys_stay_revoked before update on keys
    for each row
    when (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at)
    execute function keep_revoked();
