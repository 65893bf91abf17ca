-- Optional: an identity that SQL of the application's role cannot forge. PostgreSQL 14 or later.
-- Applied by the owner of the policies, after the numbered files; safe to apply twice.
--
-- PostgresClient(..., identity_key=...) signs each value that it sets. A policy reads the value through one of these
-- functions instead of current_setting(), in a sub-select, which is evaluated once for each statement:
--
--     USING (user_id = (SELECT failfast.identity_uuid('app.current_user_id')))
--
-- NULL where nothing is set; an error (28000) where what is set was not signed for this setting and this session, or
-- has expired. The setting is spelled as in RlsSetting, upper and lower case included.
--
-- A new key: SELECT failfast.set_identity_key(2, $1), where $1 is 32 to 64 random bytes. The one before stays valid,
-- beside the new one, until SELECT failfast.drop_former_identity_key(). Send the key as a parameter: a literal may
-- be logged.

CREATE SCHEMA IF NOT EXISTS failfast;
REVOKE ALL ON SCHEMA failfast FROM PUBLIC;
GRANT USAGE ON SCHEMA failfast TO PUBLIC;

-- One row: the current key and the one before. Each as the two padded blocks that HMAC begins with
-- (https://www.rfc-editor.org/rfc/rfc2104, section 2), so that a check need not make them.
CREATE TABLE IF NOT EXISTS failfast.identity_keys (
    number        integer NOT NULL,
    inner_block   bytea   NOT NULL CHECK (length(inner_block) = 64),
    outer_block   bytea   NOT NULL CHECK (length(outer_block) = 64),
    former_number integer,
    former_inner  bytea   CHECK (length(former_inner) = 64),
    former_outer  bytea   CHECK (length(former_outer) = 64)
);
REVOKE ALL ON failfast.identity_keys FROM PUBLIC;
-- Without a policy: whoever is granted the table by mistake, or may read all data, sees no row of it.
ALTER TABLE failfast.identity_keys ENABLE ROW LEVEL SECURITY;

DO $install$
DECLARE
    path text := current_setting('search_path');
    kind text;
    statement text;
BEGIN
    -- The bodies between BEGIN ATOMIC and END are read once, now: no search_path of a caller's changes them, and a
    -- check need not set one, which would cost it a third of its time.
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);

    -- A key that nobody knows: until the first is set, every signature is refused.
    INSERT INTO failfast.identity_keys (number, inner_block, outer_block)
    SELECT 0, r.random || r.random, r.random || r.random
    FROM (SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
            AS random) AS r
    WHERE NOT EXISTS (SELECT FROM failfast.identity_keys);

    CREATE OR REPLACE FUNCTION failfast.set_identity_key(key_number integer, key bytea) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        block bytea;
        new_inner bytea;
        new_outer bytea;
    BEGIN
        IF key IS NULL OR length(key) NOT BETWEEN 32 AND 64 THEN
            RAISE EXCEPTION 'the key must have 32 to 64 bytes' USING ERRCODE = '22023';
        END IF;
        IF key_number IS NULL OR key_number < 1 THEN
            RAISE EXCEPTION 'a key''s number must be 1 or more' USING ERRCODE = '22023';
        END IF;
        IF EXISTS (SELECT FROM failfast.identity_keys AS k WHERE key_number IN (k.number, k.former_number)) THEN
            RAISE EXCEPTION 'there is a key of the number %: take another', key_number USING ERRCODE = '23505';
        END IF;
        block := key || decode(repeat('00', 64 - length(key)), 'hex');
        new_inner := block;
        new_outer := block;
        FOR i IN 0..63 LOOP
            new_inner := set_byte(new_inner, i, get_byte(block, i) # 54);
            new_outer := set_byte(new_outer, i, get_byte(block, i) # 92);
        END LOOP;
        UPDATE failfast.identity_keys AS k SET
            number = key_number, inner_block = new_inner, outer_block = new_outer,
            former_number = nullif(k.number, 0),
            former_inner = CASE WHEN k.number > 0 THEN k.inner_block END,
            former_outer = CASE WHEN k.number > 0 THEN k.outer_block END;
    END
    $$;
    REVOKE ALL ON FUNCTION failfast.set_identity_key(integer, bytea) FROM PUBLIC;

    CREATE OR REPLACE FUNCTION failfast.drop_former_identity_key() RETURNS void
    LANGUAGE sql BEGIN ATOMIC
        UPDATE failfast.identity_keys SET former_number = NULL, former_inner = NULL, former_outer = NULL;
    END;
    REVOKE ALL ON FUNCTION failfast.drop_former_identity_key() FROM PUBLIC;

    -- What a check comes to where the value is not signed with the current key for this session: nothing is set, the
    -- key before it, a value for any session (behind a pooler), or an error.
    CREATE OR REPLACE FUNCTION failfast.other_identity(setting text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        signed text := current_setting(setting, true);
        message bytea;
        is_signed boolean;
    BEGIN
        IF signed IS NULL OR signed = '' THEN
            RETURN NULL;
        END IF;
        message := convert_to(overlay(signed PLACING setting || ':' FROM 17 FOR 64), 'UTF8');
        SELECT bool_or(
            sha256(convert_to(encode(sha256(b.outer_block || sha256(b.inner_block || int4send(p.pid) || message)),
                'hex'), 'UTF8')) = sha256(convert_to(substr(signed, 17, 64), 'UTF8')))
        INTO is_signed
        FROM failfast.identity_keys AS k
        CROSS JOIN LATERAL (VALUES (k.inner_block, k.outer_block), (k.former_inner, k.former_outer))
            AS b (inner_block, outer_block)
        CROSS JOIN (VALUES (0), (pg_backend_pid())) AS p (pid);
        IF is_signed AND signed > encode(timestamptz_send(now()), 'hex') COLLATE "C" THEN
            RETURN substr(signed, 81);
        END IF;
        IF is_signed THEN
            RAISE EXCEPTION 'the signature of the identity has expired' USING ERRCODE = '28000',
                HINT = 'The clock of the application is behind this server''s, or this is an old value.';
        END IF;
        RAISE EXCEPTION 'the identity is not signed for this session' USING ERRCODE = '28000',
            HINT = 'PostgresClient(identity_key=...) signs it, with a key that failfast.set_identity_key() has set.';
    END
    $$;
    REVOKE ALL ON FUNCTION failfast.other_identity(text) FROM PUBLIC;

    -- What is set reads EXPIRY SIGNATURE VALUE: 16 digits, 64 digits and the rest. EXPIRY is in microseconds since
    -- 2000 as the server counts them, in hexadecimal, so that text compares as time does. SIGNATURE is HMAC-SHA-256
    -- of the process id (four bytes), EXPIRY, the setting's name, ':' and VALUE. What is compared are digests of both
    -- signatures: how far these agree, and so how long the comparison takes, tells nothing of the right one.
    FOREACH kind IN ARRAY ARRAY['text', 'uuid', 'bigint', 'integer'] LOOP
        EXECUTE format($create$
            CREATE OR REPLACE FUNCTION failfast.%I(setting text) RETURNS %s
            LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER BEGIN ATOMIC
                SELECT CASE
                    WHEN sha256(convert_to(encode(sha256(k.outer_block || sha256(
                            k.inner_block || int4send(pg_backend_pid()) || convert_to(
                                overlay(current_setting(setting, true) PLACING setting || ':' FROM 17 FOR 64), 'UTF8')
                        )), 'hex'), 'UTF8'))
                        = sha256(convert_to(substr(current_setting(setting, true), 17, 64), 'UTF8'))
                    AND current_setting(setting, true) > encode(timestamptz_send(now()), 'hex') COLLATE "C"
                    THEN substr(current_setting(setting, true), 81)
                    ELSE failfast.other_identity(setting)
                END::%s
                FROM failfast.identity_keys AS k;
            END
        $create$, 'identity_' || kind, kind, kind);
    END LOOP;

    -- What the owner's default privileges have granted to other roles. A trigger on the table would read the next key.
    FOR statement IN
        SELECT format('REVOKE %s ON %s FROM %s', o.privileges, o.name,
            CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM (
            SELECT 'CREATE' AS privileges, 'SCHEMA failfast' AS name, n.nspacl AS acl, n.nspowner AS owner
            FROM pg_namespace AS n WHERE n.nspname = 'failfast'
            UNION ALL
            SELECT 'ALL', 'failfast.identity_keys', c.relacl, c.relowner
            FROM pg_class AS c WHERE c.oid = 'failfast.identity_keys'::regclass
            UNION ALL
            SELECT 'ALL', 'FUNCTION ' || p.oid::regprocedure::text, p.proacl, p.proowner
            FROM pg_proc AS p
            WHERE p.pronamespace = 'failfast'::regnamespace
                AND p.proname IN ('set_identity_key', 'drop_former_identity_key', 'other_identity')
        ) AS o
        CROSS JOIN LATERAL aclexplode(o.acl) AS a
        WHERE a.grantee <> o.owner
        GROUP BY o.privileges, o.name, a.grantee
    LOOP
        EXECUTE statement;
    END LOOP;

    PERFORM set_config('search_path', path, true);
END
$install$;
