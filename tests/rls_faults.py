"""One broken object for each rule of the linter, and what is then found."""

from __future__ import annotations

from tests.rls_tables import (
    BARE,
    CLEAN,
    DEFINER,
    GRANT,
    HELPER,
    INDEX,
    MINE,
    POLICY,
    RLS,
    SETTING,
    TABLE,
    USER,
    policy,
)

__all__ = ["BROKEN", "MEMBERS", "OF_THE_TEAM", "PARTITIONED", "PATHS"]

PARTITIONED = (
    "CREATE TABLE app.docs (user_id uuid, year int) PARTITION BY LIST (year);"
    'CREATE TABLE app."Of ""26" PARTITION OF app.docs FOR VALUES IN (2026);'
    + INDEX + GRANT + RLS + POLICY
)  # fmt: skip


BROKEN = {
    "rls-disabled": (TABLE + GRANT, "app.docs"),
    "rls-not-forced": (
        CLEAN + "ALTER TABLE app.docs NO FORCE ROW LEVEL SECURITY",
        "app.docs",
    ),
    "no-policy": (TABLE + GRANT + RLS, "app.docs"),
    "policy-always-true": (policy("true"), "policy mine on app.docs"),
    "policy-open-without-context": (
        policy(f"{SETTING} IS NULL OR {MINE}"),
        "policy mine on app.docs",
    ),
    "policy-ignores-setting": (
        policy("current_setting('app.mode', true) = 'on'"),
        "policy mine on app.docs",
    ),
    "cast-without-nullif": (
        policy(f"user_id = (SELECT {SETTING}::uuid)"),
        "policy mine on app.docs",
    ),
    "evaluated-per-row": (
        policy(f"user_id = NULLIF({SETTING}, '')::uuid"),
        "policy mine on app.docs",
    ),
    "policy-column-without-index": (TABLE + GRANT + RLS + POLICY, "app.docs"),
    "truncate-granted": (CLEAN + "GRANT TRUNCATE ON app.docs TO PUBLIC", "app.docs"),
    "partition-reachable": (
        PARTITIONED + 'GRANT SELECT ON app."Of ""26" TO crm_user',
        'app."Of ""26"',
    ),
    "view-without-security-invoker": (
        CLEAN + "CREATE VIEW app.seen AS SELECT * FROM app.docs;"
        "GRANT SELECT ON app.seen TO crm_user",
        "app.seen",
    ),
    "materialized-view": (
        CLEAN + "CREATE MATERIALIZED VIEW app.copied AS SELECT * FROM app.docs;"
        "GRANT SELECT (body) ON app.copied TO crm_user",
        "app.copied",
    ),
    "security-definer": (CLEAN + DEFINER, "function app.leak()"),
}

_TRIGGER = (
    "CREATE FUNCTION app.act() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
    "AS $$ BEGIN {body}; RETURN NEW; END $$;"
    "CREATE TRIGGER act AFTER INSERT ON app.docs FOR EACH ROW EXECUTE FUNCTION app.act();"
)
_OTHER = CLEAN.replace("app.docs", "app.notes")
MEMBERS = (
    "CREATE TABLE app.members (team_id int NOT NULL, user_id uuid NOT NULL);"
    "CREATE INDEX ON app.members (user_id);"
    "ALTER TABLE app.members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
    f"CREATE POLICY own ON app.members USING ({MINE});"
    "CREATE TABLE app.plans (team_id int NOT NULL, body text);"
    "GRANT SELECT ON app.plans TO crm_user;"
    "ALTER TABLE app.plans ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
)
OF_THE_TEAM = (
    "CREATE POLICY team ON app.plans USING (EXISTS (SELECT FROM app.members m "
    f"WHERE m.team_id = plans.team_id AND m.user_id = {USER}));"
)
PATHS = {
    "policy-passes-other-rows": (
        policy(f"user_id >= {USER}"),
        "policy mine on app.docs",
    ),
    "policy-uncorrelated": (
        MEMBERS + "GRANT SELECT ON app.members TO crm_user;"
        "CREATE POLICY team ON app.plans USING (EXISTS (SELECT FROM app.members m "
        f"WHERE m.team_id = team_id AND m.user_id = {USER}));",
        "policy team on app.plans",
    ),
    "policy-hidden-rows-shown": (
        CLEAN + "ALTER TABLE app.docs ADD deleted_at timestamptz;"
        "CREATE POLICY gone ON app.docs FOR SELECT USING (deleted_at IS NOT NULL)",
        "policy gone on app.docs",
    ),
    "shared-row-writable": (
        BARE.replace("body text", "body text, readers uuid[] NOT NULL DEFAULT '{}'")
        + f"CREATE POLICY p ON app.docs USING ({MINE} OR {USER} = ANY (readers))",
        "policy p on app.docs",
    ),
    "self-enrolment": (
        MEMBERS + OF_THE_TEAM + "GRANT SELECT, INSERT ON app.members TO crm_user",
        "app.members",
    ),
    "policy-raises": (
        policy(f"user_id = {USER} AND {USER}::text::int > 0"),
        "app.docs",
    ),
    "policy-not-proven": (
        policy(f"{MINE} AND xmin IS NOT NULL"),
        "policy mine on app.docs",
    ),
    "policy-ownerless-rows": (
        policy(f"user_id IS NULL OR {MINE}").replace("uuid NOT NULL", "uuid"),
        "policy mine on app.docs",
    ),
    "trigger-granted": (CLEAN + "GRANT TRIGGER ON app.docs TO crm_user", "app.docs"),
    "history-table": (
        CLEAN + "CREATE TABLE app.docs_history (at timestamptz, old jsonb);"
        "GRANT SELECT ON app.docs_history TO crm_user",
        "app.docs_history",
    ),
    "foreign-table": (
        CLEAN + "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER "
        "nowhere; CREATE FOREIGN TABLE app.far (user_id uuid, body text) SERVER far;"
        "GRANT SELECT ON app.far TO crm_user",
        "app.far",
    ),
    "large-object": (
        CLEAN + "ALTER TABLE app.docs ADD scan oid",
        "app.docs",
    ),
    "trigger-definer": (
        CLEAN + _OTHER + _TRIGGER.format(body="UPDATE app.notes SET body = NEW.body"),
        "trigger act on app.docs",
    ),
    "notify-payload": (
        CLEAN + _TRIGGER.format(body="PERFORM pg_notify('docs', row_to_json(NEW)::text)"),
        "trigger act on app.docs",
    ),
    "rewrite-rule": (
        CLEAN + _OTHER + "CREATE RULE clear AS ON DELETE TO app.docs DO ALSO DELETE FROM app.notes",
        "rule clear on app.docs",
    ),
    "policy-default-user": (
        policy(f"user_id = COALESCE({USER}, '3b7a3a52-6f0e-4b8c-9d51-0b6a4a7c2f11')"),
        "policy mine on app.docs",
    ),
    "policy-function-owned": (
        HELPER
        + policy("user_id = (SELECT app.uid())")
        + "ALTER FUNCTION app.uid() OWNER TO crm_user",
        "function app.uid()",
    ),
    "immutable-function": (
        HELPER.replace("STABLE", "IMMUTABLE") + policy("user_id = (SELECT app.uid())"),
        "function app.uid()",
    ),
    "identity-kept": (
        CLEAN
        + HELPER.replace("STABLE", "IMMUTABLE")
        + "CREATE DOMAIN app.owned AS uuid CONSTRAINT mine CHECK (VALUE = app.uid());",
        "constraint mine of domain app.owned",
    ),
    "leakproof-function": (
        CLEAN + "CREATE FUNCTION app.odd(t text) RETURNS boolean LANGUAGE plpgsql LEAKPROOF "
        "AS $$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$",
        "function app.odd(t text)",
    ),
    "function-sets-identity": (
        CLEAN + "CREATE FUNCTION app.become(id uuid) RETURNS void LANGUAGE sql "
        "AS $$ SELECT set_config('app.current_user_id', id::text, false) $$",
        "function app.become(id uuid)",
    ),
    "identity-default": (
        CLEAN + "ALTER ROLE crm_user IN DATABASE test_rls_check_paths SET app.current_user_id = "
        "'11111111-1111-4111-8111-111111111111'",
        "role crm_user",
    ),
    "unscoped-unique": (
        CLEAN + "ALTER TABLE app.docs ADD email text, ADD CONSTRAINT one UNIQUE (email)",
        "one on app.docs",
    ),
    "foreign-key-crosses-users": (
        CLEAN + "ALTER TABLE app.docs ADD id uuid PRIMARY KEY, ADD parent uuid, "
        "ADD CONSTRAINT up FOREIGN KEY (parent) REFERENCES app.docs (id) ON DELETE CASCADE",
        "up on app.docs",
    ),
    "sequence-readable": (
        CLEAN + "ALTER TABLE app.docs ADD number serial; "
        "GRANT USAGE, SELECT ON app.docs_number_seq TO crm_user",
        "app.docs_number_seq",
    ),
    "statistics-readable": (
        CLEAN + "GRANT SELECT (starelid, stavalues1) ON pg_catalog.pg_statistic TO crm_user",
        "pg_catalog.pg_statistic",
    ),
    "publication": (
        CLEAN + "CREATE PUBLICATION outside FOR TABLE app.docs",
        "publication outside",
    ),
}
