"""Policies made by chance, and what PostgreSQL really permits under each of them.

The brute force knows nothing of the evaluator: it fills a table with all rows of a small world,
becomes the application's role with one identity after the other, and notes which rows of others
a SELECT shows, an UPDATE changes and an INSERT adds.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, Final

from psycopg.sql import Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

__all__ = ["SCHEMA", "WORLDS", "generated", "really_leaks", "table"]

OWNER: Final = "7a7a7a7a-1111-4111-8111-a1a1a1a1a1f1"
_SPECIAL: Final = "00000000-0000-0000-0000-000000000000"
#: Others: a smaller and a greater id, ids that begin or end as the owner's, the one in a literal.
_OTHERS: Final = (
    "00000000-0000-4000-8000-00000000000b",
    "ffffffff-ffff-4fff-8fff-fffffffffffb",
    "7a7a7a7a-1111-4111-8111-a1a1a1a1a1f2",
    "8a7a7a7a-1111-4111-8111-a1a1a1a1a1f1",
    _SPECIAL,
)
_SETTING: Final = "current_setting('app.current_user_id', true)"
_ME: Final = f"(SELECT NULLIF({_SETTING}, '')::uuid)"

SCHEMA: Final = f"""
CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO crm_user;
CREATE TABLE app.members (team_id int NOT NULL, user_id uuid NOT NULL);
ALTER TABLE app.members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON app.members USING (user_id = {_ME});
GRANT SELECT ON app.members TO crm_user;
CREATE TABLE app.every_row AS
SELECT u.id AS user_id, r.id AS reader_id, t AS team_id, p AS is_public, x AS title,
       false AS touched
FROM (VALUES ('{OWNER}'::uuid), ('{_OTHERS[0]}')) AS u(id),
     (VALUES ('{OWNER}'::uuid), ('{_OTHERS[0]}'), (NULL)) AS r(id),
     unnest(ARRAY[1, 2]) AS t, unnest(ARRAY[true, false]) AS p,
     unnest(ARRAY['x', 'draft', 'other']) AS x;
GRANT SELECT ON app.every_row TO crm_user;
CREATE FUNCTION app.me() RETURNS uuid LANGUAGE sql STABLE
AS $$ SELECT NULLIF({_SETTING}, '')::uuid $$;
CREATE FUNCTION app.mine(id uuid) RETURNS boolean LANGUAGE plpgsql STABLE
AS $$ BEGIN RETURN id = NULLIF({_SETTING}, '')::uuid; END $$;
CREATE FUNCTION app.anyone(id uuid) RETURNS boolean LANGUAGE sql STABLE
AS $$ SELECT id IS NOT NULL $$;
CREATE FUNCTION app.member_of(team int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
AS $$ SELECT EXISTS (SELECT FROM app.members m WHERE m.team_id = team AND m.user_id = app.me()) $$;
CREATE FUNCTION app.teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER
AS $$ SELECT m.team_id FROM app.members m WHERE m.user_id = app.me() $$;
"""

_OWN: Final = (
    f"user_id = {_ME}",
    f"{_ME} = user_id",
    f"user_id::text = (SELECT {_SETTING})",
    f"user_id = CAST(NULLIF({_SETTING}, '') AS uuid)",
    f"user_id IN (SELECT NULLIF({_SETTING}, '')::uuid)",
    f"user_id = ANY (ARRAY[{_ME}])",
    f"user_id = COALESCE({_ME}, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)",
    f"NOT (user_id <> {_ME})",
    f"user_id IS NOT DISTINCT FROM {_ME}",
    f"NULLIF(user_id, {_ME}) IS NULL",
    f"(user_id, 1) = ({_ME}, 1)",
    f"CASE WHEN {_ME} IS NULL THEN false ELSE user_id = {_ME} END",
    "user_id = (SELECT app.me())",
    "app.mine(user_id)",
)
_TEAM: Final = (
    f"EXISTS (SELECT FROM app.members m WHERE m.team_id = {{table}}.team_id AND m.user_id = {_ME})",
    f"team_id IN (SELECT m.team_id FROM app.members m WHERE m.user_id = {_ME})",
    f"team_id = ANY (ARRAY(SELECT m.team_id FROM app.members m WHERE m.user_id = {_ME}))",
    "app.member_of(team_id)",
    "team_id IN (SELECT app.teams())",
)
_OTHER: Final = (
    "is_public",
    "title = 'x'",
    "title <> 'draft'",
    "length(title) > 1",
    f"{_ME} IS NOT NULL",
    f"{_SETTING} = ''",
    f"{_SETTING} IS NULL",
    f"reader_id = {_ME}",
    "reader_id IS NULL",
    "user_id IS NOT NULL",
    "user_id = {table}.user_id",
    f"user_id <> {_ME}",
    f"user_id >= {_ME}",
    f"user_id <= {_ME}",
    f"left(user_id::text, 8) = left((SELECT {_SETTING}), 8)",
    f"right(user_id::text, 8) = right((SELECT {_SETTING}), 8)",
    f"{_ME} = '{_SPECIAL}'::uuid",
    f"EXISTS (SELECT FROM app.members m WHERE m.user_id = {_ME})",
    "app.anyone(user_id)",
    "true",
    "false",
)


def generated(seed: int) -> tuple[str, str | None, str | None]:
    """Return a policy's USING, its WITH CHECK, and what a restrictive policy beside it says.

    Args:
        seed: Which one.
    """
    chance = random.Random(seed)  # noqa: S311 - the same policies each time, and no secret
    using = _expression(chance, chance.choice((0, 1, 1, 2, 2, 3)))
    check = _expression(chance, 1) if chance.random() < 0.2 else None
    restrictive = _expression(chance, 1) if chance.random() < 0.15 else None
    return using, check, restrictive


def _expression(chance: random.Random, depth: int) -> str:
    if depth == 0:
        return f"({chance.choice(chance.choice((_OWN, _OWN, _TEAM, _OTHER)))})"
    one, two = _expression(chance, depth - 1), _expression(chance, depth - 1)
    return chance.choice((
        f"({one} AND {two})",
        f"({one} AND {two})",
        f"({one} OR {two})",
        f"(NOT {one})",
        f"(CASE WHEN {one} THEN {two} ELSE {_expression(chance, 0)} END)",
        f"COALESCE({one}, {two})",
        f"({one} IS TRUE)",
        f"({one} IS NOT FALSE)",
        f"({one} = {two})",
        f"({one}::text = 'true')",
    ))  # fmt: skip


def table(name: str, policy: tuple[str, str | None, str | None]) -> str:
    """Return the SQL of a table under a policy, with all rows of the small world.

    Args:
        name: The table's name, without its schema.
        policy: What `generated` returned.
    """
    using, check, restrictive = (text and text.replace("{table}", name) for text in policy)
    more = f"WITH CHECK ({check})" if check else ""
    floor = f"CREATE POLICY r ON app.{name} AS RESTRICTIVE USING ({restrictive});"
    return f"""
        CREATE TABLE app.{name} (
            user_id uuid NOT NULL, reader_id uuid, team_id int NOT NULL,
            is_public boolean NOT NULL DEFAULT false, title text NOT NULL, touched boolean);
        ALTER TABLE app.{name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        GRANT SELECT, INSERT, UPDATE, DELETE ON app.{name} TO crm_user;
        CREATE POLICY p ON app.{name} USING ({using}) {more};
        {floor if restrictive else ""}
        INSERT INTO app.{name} SELECT * FROM app.every_row;
    """


# Whether a user may remove or add a row of another's that no membership ties to them. A policy for
# all commands shows in SELECT what it lets DELETE remove.
_BRUTE: Final = """
DECLARE
    name text;
    who text;
    others text;
    touched int;
    line app.every_row%ROWTYPE;
    found jsonb := '[]';
BEGIN
    FOREACH name IN ARRAY {names} LOOP
        FOREACH who IN ARRAY {people} LOOP
            IF who IS NOT NULL THEN
                PERFORM set_config('app.current_user_id', who, true);
            END IF;
            others := format('user_id IS DISTINCT FROM %L AND team_id <> ALL (%L)',
                             NULLIF(who, ''), CASE WHEN who > '' THEN {teams} ELSE '{{}}' END);
            touched := 0;
            BEGIN
                EXECUTE format('DELETE FROM app.%I WHERE %s', name, others);
                GET DIAGNOSTICS touched = ROW_COUNT;
                RAISE EXCEPTION 'undone' USING ERRCODE = 'ZZ000';
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
            IF touched = 0 AND name = ANY ({checked}) THEN
                FOR line IN EXECUTE format('SELECT * FROM app.every_row WHERE %s', others) LOOP
                    BEGIN
                        EXECUTE format('INSERT INTO app.%I SELECT ($1).*', name) USING line;
                        touched := 1;
                        RAISE EXCEPTION 'undone' USING ERRCODE = 'ZZ000';
                    EXCEPTION WHEN OTHERS THEN NULL;
                    END;
                    EXIT WHEN touched > 0;
                END LOOP;
            END IF;
            IF touched > 0 THEN
                found := found || jsonb_build_array(name);
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
    PERFORM set_config('brute.found', found::text, true);
END
"""

#: What the memberships are: none, the owner's alone, everybody's; and the teams of everybody else.
WORLDS: Final = (
    ("", "{}"),
    (f"INSERT INTO app.members VALUES (1, '{OWNER}')", "{}"),
    (
        "INSERT INTO app.members VALUES "
        + ", ".join(f"(1, '{other}')" for other in _OTHERS),
        "{1}",
    ),
)  # fmt: skip


def really_leaks(
    connection: psycopg.Connection[tuple[Any, ...]],
    policies: Mapping[str, tuple[str, str | None, str | None]],
    teams: str,
    *,
    fresh: bool,
) -> set[str]:
    """Return the tables of which a user can remove or add another's rows.

    Args:
        connection: A connection of the application's role.
        policies: What `generated` returned, by table.
        teams: The teams that every other user is a member of.
        fresh: Whether the setting was never set; else it is set to each user, and to nothing.
    """
    people: list[str | None] = [None] if fresh else [*_OTHERS, ""]
    body = _BRUTE.format(
        names=_array([*policies]), people=_array(people), teams=Literal(teams).as_string(None),
        checked=_array([name for name, policy in policies.items() if policy[1]]),
    )  # fmt: skip
    with connection.transaction(force_rollback=True):
        connection.execute(f"DO {Literal(body).as_string(None)}".encode())
        row = connection.execute("SELECT current_setting('brute.found')").fetchone()
    return set(json.loads(row[0])) if row else set()


def _array(values: list[str] | list[str | None]) -> str:
    found = ", ".join("NULL" if v is None else Literal(v).as_string(None) for v in values)
    return f"ARRAY[{found}]::text[]"
