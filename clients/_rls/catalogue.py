"""What the catalogue tells of row-level security, read in one round trip as the connected role.

It needs no rights of its own and changes nothing. Identifiers come back quoted for use in SQL, and
expressions twice: with every name qualified, for the SQL of a fix, and with a ``search_path`` that
holds every schema, for `clients._rls.evaluate`, which hides lookup tables behind tables of
their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple

from psycopg.rows import tuple_row
from psycopg.sql import Identifier

if TYPE_CHECKING:
    import psycopg

__all__ = ["Catalogue", "read_catalogue"]

# Every schema that this role may use, its own search path first: what is printed unqualified under
# it is also what its functions find.
_WIDE_PATH: Final[LiteralString] = """
SELECT set_config('search_path', coalesce(string_agg(quote_ident(n.nspname), ', '
                  ORDER BY array_position(current_schemas(false), n.nspname), n.nspname), ''), true)
FROM pg_catalog.pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(n.oid, 'USAGE')
"""

_EXPRESSIONS: Final[LiteralString] = """
SELECT p.oid::text, jsonb_build_object('using', pg_get_expr(p.polqual, p.polrelid),
                                       'check', pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_catalog.pg_policy p
UNION ALL
SELECT 'checks of ' || c.conrelid, jsonb_agg(pg_get_expr(c.conbin, c.conrelid))
FROM pg_catalog.pg_constraint c
WHERE c.contype = 'c' AND c.conrelid <> 0
GROUP BY c.conrelid
UNION ALL
SELECT 'defaults of ' || a.adrelid, jsonb_object_agg(t.attname, pg_get_expr(a.adbin, a.adrelid))
FROM pg_catalog.pg_attrdef a
JOIN pg_catalog.pg_attribute t ON t.attrelid = a.adrelid AND t.attnum = a.adnum
WHERE a.adrelid >= 16384
GROUP BY a.adrelid
UNION ALL
SELECT 'view ' || c.oid, to_jsonb(pg_get_viewdef(c.oid))
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'v' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

_FACTS: Final[LiteralString] = r"""
WITH RECURSIVE spaces AS MATERIALIZED (
    SELECT oid, nspname, has_schema_privilege(oid, 'USAGE') AS usable
    FROM pg_catalog.pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), classes AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relnamespace, c.relkind, c.relowner, c.relrowsecurity,
           c.relforcerowsecurity, c.relispartition, c.reloptions,
           format('%I.%I', n.nspname, c.relname) AS name,
           n.usable,
           has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
               OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE') AS granted
    FROM pg_catalog.pg_class c
    JOIN spaces n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                        AND d.objid = c.oid AND d.deptype = 'e')
), reached AS MATERIALIZED (
    SELECT *, usable AND granted AS reachable FROM classes
), ancestors AS (
    SELECT inhrelid AS child, inhparent AS ancestor FROM pg_catalog.pg_inherits
    UNION
    SELECT a.child, i.inhparent
    FROM ancestors a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.ancestor
), children AS MATERIALIZED (
    SELECT a.child, bool_or(p.reachable) AS parent_reachable,
           min(p.name) FILTER (WHERE p.relrowsecurity) AS protected_parent
    FROM ancestors a JOIN reached p ON p.oid = a.ancestor
    GROUP BY a.child
), protected AS MATERIALIZED (
    SELECT c.oid, c.name, c.relowner, c.relrowsecurity, c.relforcerowsecurity
    FROM reached c LEFT JOIN children h ON h.child = c.oid
    WHERE c.relrowsecurity OR h.protected_parent IS NOT NULL
), owned AS MATERIALIZED (
    SELECT c.relowner AS role FROM reached c
    UNION SELECT p.proowner FROM pg_catalog.pg_proc p JOIN spaces n ON n.oid = p.pronamespace
), settable AS MATERIALIZED (
    SELECT r.oid AS role FROM pg_catalog.pg_roles r
    -- Since PostgreSQL 16 a membership may be without SET; who may grant it may grant itself that.
    WHERE pg_has_role(r.oid, 'MEMBER')
      AND (pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::int < 160000
                                   THEN 'MEMBER' ELSE 'SET' END)
           OR EXISTS (SELECT FROM pg_catalog.pg_roles a
                      WHERE pg_has_role(a.oid, 'MEMBER WITH ADMIN OPTION')
                        AND pg_has_role(a.oid, r.oid, 'MEMBER')))
      AND NOT pg_has_role(r.oid, 'USAGE')
      AND NOT r.rolsuper AND NOT r.rolbypassrls AND r.rolname !~ '^pg_'
), subjects AS MATERIALIZED (
    SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls AS unbound,
           r.oid IN (SELECT role FROM settable) AS settable
    FROM pg_catalog.pg_roles r
    WHERE r.oid IN (SELECT role FROM owned UNION SELECT role FROM settable)
), domains AS MATERIALIZED (
    SELECT t.oid, t.typname, format('%I.%I', n.nspname, t.typname) AS name
    FROM pg_catalog.pg_type t
    JOIN spaces n ON n.oid = t.typnamespace
    WHERE t.typtype = 'd'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                        AND d.objid = t.oid AND d.deptype = 'e')
), direct AS MATERIALIZED (
    -- Which function each object calls: by name, by an operator, or for a domain's CHECK.
    SELECT d.classid, d.objid, coalesce(o.oprcode::pg_catalog.oid, d.refobjid) AS proc
    FROM pg_catalog.pg_depend d
    LEFT JOIN pg_catalog.pg_operator o ON o.oid = d.refobjid
         AND d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
    WHERE d.objsubid = 0 AND (o.oid IS NOT NULL
          OR d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
), uses AS MATERIALIZED (
    SELECT classid, objid, proc FROM direct
    UNION
    SELECT d.classid, d.objid, c.proc
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_constraint k ON k.contypid = d.refobjid
    JOIN direct c ON c.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
         AND c.objid = k.oid
    WHERE d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
), policies AS MATERIALIZED (
    SELECT p.polrelid,
           jsonb_build_object(
               'oid', p.oid::text,
               'name', p.polname,
               'quoted', quote_ident(p.polname),
               'permissive', p.polpermissive,
               'command', p.polcmd,
               'public', p.polroles @> '{0}',
               'roles', (SELECT coalesce(jsonb_agg(quote_ident(r.rolname) ORDER BY r.rolname), '[]')
                         FROM pg_catalog.pg_roles r WHERE r.oid = ANY (p.polroles)),
               'mine', (SELECT coalesce(jsonb_agg(quote_ident(r.rolname) ORDER BY r.rolname), '[]')
                        FROM pg_catalog.pg_roles r
                        WHERE r.oid = ANY (p.polroles) AND pg_has_role(r.oid, 'USAGE')),
               'subjects', (SELECT coalesce(jsonb_agg(s.rolname), '[]') FROM subjects s
                            WHERE p.polroles @> '{0}'
                               OR EXISTS (SELECT FROM unnest(p.polroles) AS role
                                          WHERE role <> 0 AND pg_has_role(s.oid, role, 'USAGE'))),
               'using', pg_get_expr(p.polqual, p.polrelid),
               'check', pg_get_expr(p.polwithcheck, p.polrelid),
               'columns', (
                   SELECT coalesce(jsonb_object_agg(u.name, u.columns), '{}')
                   FROM (SELECT c.name, jsonb_agg(DISTINCT t.attname) AS columns
                         FROM pg_catalog.pg_depend d
                         JOIN reached c ON c.oid = d.refobjid
                         LEFT JOIN pg_catalog.pg_attribute t
                              ON t.attrelid = c.oid AND t.attnum = d.refobjsubid
                                 AND d.refobjsubid > 0
                         WHERE d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
                           AND d.objid = p.oid AND d.deptype = 'n'
                           AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                         GROUP BY c.name) AS u),
               'functions', (
                   SELECT coalesce(jsonb_agg(u.proc::text), '[]') FROM uses u
                   WHERE u.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
                     AND u.objid = p.oid),
               'domains', (
                   SELECT coalesce(jsonb_agg(t.oid::text), '[]')
                   FROM pg_catalog.pg_depend d JOIN domains t ON t.oid = d.refobjid
                   WHERE d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
                     AND d.objid = p.oid
                     AND d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass)
           ) AS facts
    FROM pg_catalog.pg_policy p
)
SELECT 'table' AS kind, c.name AS object, jsonb_build_object(
    'oid', c.oid::text,
    'name', c.relname,
    'quoted', quote_ident(c.relname),
    'rls', c.relrowsecurity,
    'forced', c.relforcerowsecurity,
    'foreign', c.relkind = 'f',
    'usable', c.usable,
    'reachable', c.reachable,
    'grantees', coalesce((
        SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                        ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
        FROM (SELECT coalesce(k.relacl, acldefault('r', k.relowner)) AS acl
              FROM pg_catalog.pg_class k WHERE k.oid = c.oid
              UNION ALL
              SELECT t.attacl FROM pg_catalog.pg_attribute t
              WHERE t.attrelid = c.oid AND t.attacl IS NOT NULL) AS acls,
             aclexplode(acls.acl) AS a
        WHERE a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')), quote_ident(current_user)),
    'select', has_any_column_privilege(c.oid, 'SELECT'),
    'insert', has_any_column_privilege(c.oid, 'INSERT'),
    'update', has_any_column_privilege(c.oid, 'UPDATE'),
    'delete', has_table_privilege(c.oid, 'DELETE'),
    'truncate', has_table_privilege(c.oid, 'TRUNCATE'),
    'trigger', has_table_privilege(c.oid, 'TRIGGER'),
    'owned', pg_has_role(c.relowner, 'USAGE'),
    'protected', c.oid IN (SELECT oid FROM protected),
    'protected_parent', h.protected_parent,
    'parent_reachable', c.relispartition AND coalesce(h.parent_reachable, false),
    'policies', coalesce((SELECT jsonb_agg(p.facts ORDER BY p.facts ->> 'name')
                          FROM policies p WHERE p.polrelid = c.oid), '[]'),
    'subjects', (
        SELECT coalesce(jsonb_object_agg(s.rolname, jsonb_build_object(
            'unbound', s.unbound OR NOT c.relrowsecurity OR (
                NOT c.relforcerowsecurity AND pg_has_role(s.oid, c.relowner, 'USAGE')),
            'settable', s.settable,
            'read', has_any_column_privilege(s.oid, c.oid, 'SELECT'),
            'write', has_table_privilege(s.oid, c.oid, 'DELETE')
                     OR has_any_column_privilege(s.oid, c.oid, 'INSERT, UPDATE'))), '{}')
        FROM subjects s WHERE c.oid IN (SELECT oid FROM protected)),
    'expression_index', EXISTS (SELECT FROM pg_catalog.pg_index i
                                WHERE i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] = 0),
    'columns', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', t.attname,
            'quoted', quote_ident(t.attname),
            -- As a cast, "character" and "bit" are of length 1: they would cut the value.
            'type', format_type(t.atttypid, -1),
            'base', format_type(b.oid, NULL),
            'element', CASE WHEN b.typcategory = 'A' THEN format_type(b.typelem, NULL) END,
            'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder)
                       FROM pg_catalog.pg_enum e WHERE e.enumtypid = b.oid),
            'required', t.attnotnull,
            'generated', t.attgenerated <> '',
            'identity', t.attidentity <> '',
            'insert', has_column_privilege(c.oid, t.attnum, 'INSERT'),
            'update', has_column_privilege(c.oid, t.attnum, 'UPDATE'),
            'text', y.oid IN ('text'::pg_catalog.regtype, 'varchar'::pg_catalog.regtype),
            -- A cast of these changes nothing but the label, so an index still serves.
            'relabelled', y.oid = 'varchar'::pg_catalog.regtype OR y.typtype = 'd',
            'key', EXISTS (SELECT FROM pg_catalog.pg_index i
                           WHERE i.indrelid = c.oid AND i.indisunique
                             AND i.indnkeyatts = 1 AND i.indkey[0] = t.attnum),
            'indexed', EXISTS (
                SELECT FROM pg_catalog.pg_index i
                JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname IN ('btree', 'hash')
                WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
                  AND i.indkey[0] = t.attnum)
        ) ORDER BY t.attnum), '[]')
        FROM pg_catalog.pg_attribute t
        JOIN pg_catalog.pg_type y ON y.oid = t.atttypid
        JOIN pg_catalog.pg_type b
             ON b.oid = CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END
        WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped)
) AS facts
FROM reached c
LEFT JOIN children h ON h.child = c.oid
WHERE c.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'view', c.name, jsonb_build_object(
    'oid', c.oid::text,
    'name', c.relname,
    'materialized', c.relkind = 'm',
    'usable', c.usable,
    'readers', (SELECT coalesce(jsonb_agg(r.rolname), '[]')
                FROM settable t JOIN pg_catalog.pg_roles r ON r.oid = t.role
                WHERE has_any_column_privilege(t.role, c.oid, 'SELECT')
                  AND has_schema_privilege(t.role, c.relnamespace, 'USAGE')),
    'granted', c.granted,
    'owner', pg_get_userbyid(c.relowner),
    'grantees', coalesce((
        SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                        ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
        FROM (SELECT coalesce(k.relacl, acldefault('r', k.relowner)) AS acl
              FROM pg_catalog.pg_class k WHERE k.oid = c.oid
              UNION ALL
              SELECT t.attacl FROM pg_catalog.pg_attribute t
              WHERE t.attrelid = c.oid AND t.attacl IS NOT NULL) AS acls,
             aclexplode(acls.acl) AS a
        WHERE a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')), quote_ident(current_user)),
    -- CASE, for other options' values do not cast.
    'invoker', coalesce((SELECT bool_or(CASE WHEN o.option_name = 'security_invoker'
                                             THEN o.option_value::boolean ELSE false END)
                         FROM pg_options_to_table(c.reloptions) AS o), false),
    'definition', pg_get_viewdef(c.oid),
    'reads', (SELECT coalesce(jsonb_agg(DISTINCT k.name), '[]')
              FROM pg_catalog.pg_rewrite r
              JOIN pg_catalog.pg_depend d ON d.objid = r.oid
                   AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
                   AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
              JOIN reached k ON k.oid = d.refobjid AND k.oid <> c.oid
              WHERE r.ev_class = c.oid AND r.rulename = '_RETURN'))
FROM reached c
WHERE c.relkind IN ('v', 'm')
UNION ALL
SELECT 'rule', format('%I', r.rulename), jsonb_build_object(
    'on', c.name,
    'owner', pg_get_userbyid(c.relowner),
    'definition', pg_get_ruledef(r.oid),
    'reads', (SELECT coalesce(jsonb_agg(DISTINCT k.name), '[]')
              FROM pg_catalog.pg_depend d
              JOIN reached k ON k.oid = d.refobjid AND k.oid <> c.oid
              WHERE d.objid = r.oid AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass))
FROM pg_catalog.pg_rewrite r
JOIN reached c ON c.oid = r.ev_class
WHERE r.rulename <> '_RETURN' AND c.reachable AND r.ev_enabled <> 'D'
UNION ALL
SELECT 'function', format('%I.%I(%s)', n.nspname, p.proname,
                          pg_get_function_identity_arguments(p.oid)), jsonb_build_object(
    'oid', p.oid::text,
    'name', p.proname,
    'schema', n.nspname,
    'qualified', format('%I.%I', n.nspname, p.proname),
    'kind', p.prokind,
    'definer', p.prosecdef,
    'owner', pg_get_userbyid(p.proowner),
    'owned', pg_has_role(p.proowner, 'USAGE'),
    'language', l.lanname,
    'volatile', p.provolatile,
    'leakproof', p.proleakproof,
    'settings', coalesce(to_jsonb(p.proconfig), '[]'),
    'set', p.proretset,
    'returns', format_type(p.prorettype, NULL),
    'arguments', coalesce((SELECT jsonb_agg(jsonb_build_object(
                               'name', coalesce(p.proargnames[a.n], ''),
                               'type', format_type(a.type, NULL)) ORDER BY a.n)
                           FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(type, n)), '[]'),
    'source', CASE WHEN p.prokind = 'a' THEN '' ELSE
                   coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) END,
    'defaults', pg_get_expr(p.proargdefaults, 0),
    'uses', (SELECT coalesce(jsonb_agg(u.proc::text), '[]') FROM uses u
             WHERE u.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND u.objid = p.oid),
    'domains', (SELECT coalesce(jsonb_agg(t.oid::text), '[]')
                FROM pg_catalog.pg_depend d JOIN domains t ON t.oid = d.refobjid
                WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                  AND d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass),
    'sqlbody', p.prosqlbody IS NOT NULL,
    'transitions', (SELECT jsonb_agg(f.proc::pg_catalog.oid::text)
                    FROM pg_catalog.pg_aggregate g,
                         unnest(ARRAY[g.aggtransfn, g.aggfinalfn, g.aggcombinefn]) AS f(proc)
                    WHERE g.aggfnoid = p.oid AND f.proc::pg_catalog.oid <> 0),
    'callable', n.usable AND has_function_privilege(p.oid, 'EXECUTE'),
    'grantees', (SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                       ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
                 FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                 WHERE a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')),
    'definition', CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END,
    'triggers', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object(
                     'on', c.name, 'name', format('%I', t.tgname))), '[]')
                 FROM pg_catalog.pg_trigger t JOIN reached c ON c.oid = t.tgrelid
                 WHERE t.tgfoid = p.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'))
FROM pg_catalog.pg_proc p
JOIN spaces n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                    AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'operator', o.oprname, jsonb_build_object('function', o.oprcode::pg_catalog.oid::text)
FROM pg_catalog.pg_operator o
WHERE o.oid >= 16384
UNION ALL
SELECT 'cast', y.typname, jsonb_build_object('function', k.castfunc::text)
FROM pg_catalog.pg_cast k
JOIN pg_catalog.pg_type y ON y.oid = k.casttarget
WHERE k.oid >= 16384 AND k.castfunc <> 0
UNION ALL
SELECT 'domain check', format('%I', k.conname), jsonb_build_object(
    'on', t.name,
    'domain', t.oid::text,
    'name', t.typname,
    'definition', pg_get_constraintdef(k.oid),
    'functions', (SELECT jsonb_agg(u.proc::text) FROM uses u
                  WHERE u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
                    AND u.objid = k.oid))
FROM domains t
JOIN pg_catalog.pg_constraint k ON k.contypid = t.oid AND k.contype = 'c'
WHERE EXISTS (SELECT FROM uses u
              WHERE u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
                AND u.objid = k.oid)
UNION ALL
SELECT CASE WHEN x.relkind IN ('r', 'p') THEN 'partition key' ELSE 'index' END,
       coalesce(quote_ident(k.conname), x.oid::pg_catalog.regclass::text), jsonb_build_object(
    'on', c.name,
    'constraint', k.oid IS NOT NULL,
    'functions', (SELECT jsonb_agg(u.proc::text) FROM uses u
                  WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND u.objid = x.oid))
FROM reached c
LEFT JOIN children h ON h.child = c.oid
CROSS JOIN LATERAL (SELECT c.oid UNION ALL
                    SELECT i.indexrelid FROM pg_catalog.pg_index i
                    WHERE i.indrelid = c.oid) AS o(oid)
JOIN pg_catalog.pg_class x ON x.oid = o.oid
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = x.oid AND k.contype IN ('p', 'u', 'x')
WHERE (c.reachable OR h.parent_reachable OR c.oid IN (SELECT oid FROM protected))
  AND (x.relkind IN ('r', 'p') OR NOT x.relispartition)
  AND EXISTS (SELECT FROM uses u
              WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND u.objid = x.oid)
UNION ALL
SELECT 'unique', coalesce(quote_ident(k.conname), quote_ident(x.relname)), jsonb_build_object(
    'on', c.name,
    'constraint', k.conname IS NOT NULL,
    'index', i.indexrelid::pg_catalog.regclass::text,
    'exclusion', coalesce(k.contype = 'x', false),
    'primary', i.indisprimary,
    'definition', coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)),
    'expression', 0 = ANY (i.indkey::int2[]),
    'referenced', EXISTS (SELECT FROM pg_catalog.pg_constraint f
                          WHERE f.contype = 'f' AND f.conindid = i.indexrelid),
    'columns', (SELECT coalesce(jsonb_agg(t.attname), '[]') FROM pg_catalog.pg_attribute t
                WHERE t.attrelid = c.oid
                  AND t.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])))
FROM pg_catalog.pg_index i
JOIN protected p ON p.oid = i.indrelid
JOIN reached c ON c.oid = i.indrelid AND c.reachable
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
WHERE (i.indisunique OR k.contype = 'x') AND NOT c.relispartition
UNION ALL
SELECT 'reference', format('%I', k.conname), jsonb_build_object(
    'on', c.name,
    'to', r.name,
    'delete', k.confdeltype,
    'update', k.confupdtype,
    'definition', pg_get_constraintdef(k.oid),
    'columns', (SELECT jsonb_agg(t.attname ORDER BY array_position(k.conkey, t.attnum))
                FROM pg_catalog.pg_attribute t
                WHERE t.attrelid = k.conrelid AND t.attnum = ANY (k.conkey)),
    'keys', (SELECT jsonb_agg(t.attname ORDER BY array_position(k.confkey, t.attnum))
             FROM pg_catalog.pg_attribute t
             WHERE t.attrelid = k.confrelid AND t.attnum = ANY (k.confkey)))
FROM pg_catalog.pg_constraint k
JOIN reached c ON c.oid = k.conrelid
JOIN reached r ON r.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0
UNION ALL
SELECT 'sequence', format('%I.%I', n.nspname, s.relname), jsonb_build_object(
    'on', p.name,
    'read', has_sequence_privilege(s.oid, 'SELECT'),
    'set', has_sequence_privilege(s.oid, 'UPDATE'),
    'grantees', (SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                       ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
                 FROM aclexplode(coalesce(s.relacl, acldefault('s', s.relowner))) AS a
                 WHERE a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
FROM pg_catalog.pg_class s
JOIN spaces n ON n.oid = s.relnamespace AND n.usable
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.objid = s.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.deptype IN ('a', 'i')
JOIN protected p ON p.oid = d.refobjid AND p.relrowsecurity
WHERE s.relkind = 'S' AND (has_sequence_privilege(s.oid, 'SELECT')
                           OR has_sequence_privilege(s.oid, 'UPDATE'))
UNION ALL
SELECT 'default', CASE WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'every role'
                       WHEN s.setrole = 0 THEN 'database ' || quote_ident(current_database())
                       ELSE 'role ' || quote_ident(pg_get_userbyid(s.setrole)) END,
       jsonb_build_object(
    'settings', to_jsonb(s.setconfig),
    'reset', CASE WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'ALTER ROLE ALL'
                  WHEN s.setrole = 0 THEN format('ALTER DATABASE %I', current_database())
                  ELSE format('ALTER ROLE %I%s', pg_get_userbyid(s.setrole),
                              CASE WHEN s.setdatabase <> 0
                                   THEN format(' IN DATABASE %I', current_database()) END) END)
FROM pg_catalog.pg_db_role_setting s
WHERE (s.setrole = 0 OR pg_get_userbyid(s.setrole) IN (current_user, session_user))
  AND (s.setdatabase = 0 OR s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database d
                                             WHERE d.datname = current_database()))
UNION ALL
-- https://www.postgresql.org/docs/18/catalog-pg-statistic.html: values of the rows themselves.
SELECT 'statistics', c.relname, jsonb_build_object('grantees', coalesce((
    SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                    ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
    FROM (SELECT coalesce(c.relacl, acldefault('r', c.relowner)) AS acl
          UNION ALL
          SELECT t.attacl FROM pg_catalog.pg_attribute t
          WHERE t.attrelid = c.oid AND t.attacl IS NOT NULL) AS acls,
         aclexplode(acls.acl) AS a
    WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE'))), ''),
    'all', pg_has_role('pg_read_all_data', 'USAGE'))
FROM pg_catalog.pg_class c
WHERE c.oid IN ('pg_catalog.pg_statistic'::pg_catalog.regclass,
                'pg_catalog.pg_statistic_ext_data'::pg_catalog.regclass)
  AND has_any_column_privilege(c.oid, 'SELECT')
UNION ALL
SELECT 'publication', format('%I', p.pubname), jsonb_build_object(
    'all', p.puballtables,
    'tables', (SELECT coalesce(jsonb_agg(format('%I.%I', t.schemaname, t.tablename)), '[]')
               FROM pg_catalog.pg_publication_tables t WHERE t.pubname = p.pubname))
FROM pg_catalog.pg_publication p
UNION ALL
SELECT 'role', quote_ident(r.rolname), jsonb_build_object(
    'version', current_setting('server_version_num')::int,
    'user', current_user,
    'session', session_user,
    'replication', r.rolreplication,
    'createrole', r.rolcreaterole,
    'compat', current_setting('lo_compat_privileges')::boolean,
    'settable', (SELECT coalesce(jsonb_agg(g.rolname ORDER BY g.rolname), '[]')
                 FROM settable t JOIN pg_catalog.pg_roles g ON g.oid = t.role),
    'powers', (SELECT coalesce(jsonb_agg(g.rolname), '[]') FROM pg_catalog.pg_roles g
               WHERE pg_has_role(r.oid, g.oid, 'MEMBER') AND NOT r.rolsuper
                 AND g.rolname IN ('pg_execute_server_program', 'pg_read_server_files',
                                   'pg_write_server_files')))
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""


class Catalogue(NamedTuple):
    """What the catalogue holds.

    Args:
        facts: By kind, then each object's name and facts.
        expressions: By policy or table, printed for `search_path`.
        search_path: The one that holds every schema.
    """

    facts: dict[str, list[tuple[str, dict[str, Any]]]]
    expressions: dict[str, Any]
    search_path: str


def read_catalogue(connection: psycopg.Connection[Any], role: str | None = None) -> Catalogue:
    """Read the catalogue in one round trip.

    Args:
        connection: A connection of the application role, in autocommit mode.
        role: The role that the application takes with ``SET ROLE``, if any.

    Raises:
        psycopg.Error: The query failed.
    """
    statements = [
        # Where the server has a compiler, it would take a hundred times as long as the queries.
        "SET LOCAL jit = off",
        *([f"SET LOCAL ROLE {Identifier(role).as_string(connection)}"] if role else []),
        _WIDE_PATH,
        _EXPRESSIONS,
        "SET LOCAL search_path = ''",
        _FACTS,
    ]
    with connection.cursor(row_factory=tuple_row) as cursor:
        # One message is one transaction, at whose end the settings go.
        cursor.execute(";\n".join(statements).encode())
        results = []
        while True:
            if cursor.description is not None:
                results.append(cursor.fetchall())
            if not cursor.nextset():
                break
    (path,), expressions, rows = results
    facts: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for kind, name, details in rows:
        facts.setdefault(kind, []).append((name, details))
    return Catalogue(facts, dict(expressions), path[0])
