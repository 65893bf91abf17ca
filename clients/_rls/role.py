"""Whether row-level security binds the role that a connection logged in as.

https://www.postgresql.org/docs/18/ddl-rowsecurity.html: superusers, roles with BYPASSRLS, and
owners of tables without FORCE pass every policy by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, LiteralString, NamedTuple

from psycopg.rows import class_row

if TYPE_CHECKING:
    import psycopg

__all__ = ["BYPASS_QUERY", "Bypass", "find_bypass"]

# session_user as well as current_user: RESET ROLE goes back to it.
# SET and not USAGE: BYPASSRLS is not inherited, but SET ROLE reaches it. Since PostgreSQL 16 a
# membership may be without SET; who may grant it may grant itself that.
# A superuser is a member of everything, so nothing further is said of one.
# Where transactions run under another role, the login's memberships are what that takes: Supabase's
# and PostgREST's logins are members of a role for each kind of caller, administrators included.
# The bootstrap superuser (oid 10) cannot lose the attribute.
BYPASS_QUERY: Final[LiteralString] = """
WITH subject AS (
    SELECT oid, rolname, rolsuper, rolbypassrls
    FROM pg_catalog.pg_roles
    WHERE rolname IN (session_user, current_user, %(role)s::text)
), unbound AS (
    SELECT oid, rolname, CASE WHEN rolsuper THEN 'is a superuser' ELSE 'has BYPASSRLS' END AS state
    FROM pg_catalog.pg_roles
    WHERE rolsuper OR rolbypassrls
), unforced AS (
    SELECT c.relowner, format('%%I.%%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p')
      AND NOT c.relforcerowsecurity
      AND (c.relrowsecurity
           OR EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid))
)
SELECT 'superuser' AS kind, s.rolname::text AS role,
       format('role %%I is a superuser', s.rolname) AS why,
       CASE WHEN s.oid = 10
            THEN 'CREATE ROLE app_user LOGIN NOSUPERUSER NOBYPASSRLS; -- and connect as app_user'
            ELSE format('ALTER ROLE %%I NOSUPERUSER;', s.rolname) END AS fix
FROM subject s
WHERE s.rolsuper
UNION ALL
SELECT 'bypassrls', s.rolname::text,
       format('role %%I has BYPASSRLS', s.rolname),
       format('ALTER ROLE %%I NOBYPASSRLS;', s.rolname)
FROM subject s
WHERE s.rolbypassrls AND NOT s.rolsuper
UNION ALL
SELECT 'member', s.rolname::text,
       format('role %%I is a member of %%I, which %%s: SET ROLE reaches it',
              s.rolname, u.rolname, u.state),
       string_agg(format('REVOKE %%I FROM %%I%%s;', via.rolname, s.rolname,
                         CASE WHEN m.grantor <> 10
                              THEN format(' GRANTED BY %%I', pg_get_userbyid(m.grantor)) END),
                  ' ' ORDER BY via.rolname)
FROM subject s
JOIN unbound u ON u.oid <> s.oid AND pg_has_role(s.oid, u.oid, 'MEMBER')
     AND (pg_has_role(s.oid, u.oid, CASE WHEN current_setting('server_version_num')::int < 160000
                                         THEN 'MEMBER' ELSE 'SET' END)
          OR EXISTS (SELECT FROM pg_catalog.pg_roles a
                     WHERE pg_has_role(s.oid, a.oid, 'MEMBER WITH ADMIN OPTION')
                       AND pg_has_role(a.oid, u.oid, 'MEMBER')))
JOIN pg_catalog.pg_auth_members m ON m.member = s.oid
JOIN pg_catalog.pg_roles via ON via.oid = m.roleid
WHERE NOT s.rolsuper
  AND s.rolname = coalesce(%(role)s::text, s.rolname)
  AND (via.oid = u.oid OR (NOT via.rolsuper AND pg_has_role(via.oid, u.oid, 'MEMBER')))
GROUP BY s.rolname, u.rolname, u.state
UNION ALL
SELECT 'owner', s.rolname::text,
       CASE WHEN t.relowner = s.oid
            THEN format('role %%I owns %%s, which does not FORCE ROW LEVEL SECURITY',
                        s.rolname, t.name)
            ELSE format('role %%I is a member of %%I, which owns %%s, '
                        'which does not FORCE ROW LEVEL SECURITY',
                        s.rolname, pg_get_userbyid(t.relowner), t.name) END,
       format('ALTER TABLE %%s FORCE ROW LEVEL SECURITY;', t.name)
FROM subject s
JOIN unforced t ON pg_has_role(s.oid, t.relowner, 'MEMBER')
WHERE NOT s.rolsuper
  AND (t.relowner = s.oid OR s.rolname = coalesce(%(role)s::text, s.rolname))
ORDER BY 2, 1, 3
"""


class Bypass(NamedTuple):
    """One reason for which row-level security does not bind the connection's role.

    Args:
        kind: What lets the role pass.
        role: The role, as the server spells it.
        why: The reason in words.
        fix: SQL that fixes it, to be run as a superuser.
    """

    kind: Literal["superuser", "bypassrls", "member", "owner"]
    role: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.why}; fix it with: {self.fix}"


def find_bypass(connection: psycopg.Connection[Any], local_role: str | None = None) -> list[Bypass]:
    """Return why row-level security would not bind this connection's role.

    Needs no rights of its own and one round trip in autocommit mode.

    Args:
        connection: A connection of the application role.
        local_role: The role that transactions run under, when that is another one.

    Returns:
        One entry for each reason; empty when every policy binds the role.

    Raises:
        psycopg.Error: The query failed.
    """
    with connection.cursor(row_factory=class_row(Bypass)) as cursor:
        return cursor.execute(BYPASS_QUERY, {"role": local_role}, prepare=False).fetchall()
