"""The one catalogue query behind ``check_rls``: what the connected role can reach, as facts.

It needs no rights of its own and changes nothing. ``$1`` is the name of the setting. Each row is
a kind (``table``, ``reader``, ``view`` or ``function``) and its facts; `clients._rls.check` turns
these into findings. Identifiers come back quoted for use in SQL.
"""

from __future__ import annotations

from typing import Final, LiteralString

__all__ = ["FACTS_QUERY"]

# classes, functions: outside system and temporary schemas, and no part of an extension.
# protected: tables with RLS, and all that inherit from them.
# readers: functions that read the setting, or call one that does. Bodies given as text leave no
#   dependency in the catalogue, so names are looked for in the source.
# over: views over protected tables, whatever lies between.
# touching: functions that name a protected table, or whose source does not tell (dynamic SQL,
#   other languages), or that call one.
FACTS_QUERY: Final[LiteralString] = r"""
WITH RECURSIVE spaces AS MATERIALIZED (
    SELECT oid, nspname, has_schema_privilege(oid, 'USAGE') AS usable
    FROM pg_catalog.pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), classes AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
           c.relispartition, c.reloptions, format('%I.%I', n.nspname, c.relname) AS name,
           n.usable AND (
               has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
               OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE')) AS reachable,
           (SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                            ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
            FROM (SELECT coalesce(c.relacl, acldefault('r', c.relowner)) AS acl
                  UNION ALL
                  SELECT t.attacl FROM pg_catalog.pg_attribute t
                  WHERE t.attrelid = c.oid AND t.attacl IS NOT NULL) AS acls,
                 aclexplode(acls.acl) AS a
            WHERE a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')) AS grantees
    FROM pg_catalog.pg_class c
    JOIN spaces n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass
                        AND d.objid = c.oid AND d.deptype = 'e')
), ancestors AS (
    SELECT inhrelid AS child, inhparent AS ancestor FROM pg_catalog.pg_inherits
    UNION
    SELECT a.child, i.inhparent
    FROM ancestors a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.ancestor
), children AS MATERIALIZED (
    SELECT a.child, bool_or(p.reachable) AS parent_reachable,
           min(p.name) FILTER (WHERE p.relrowsecurity) AS protected_parent
    FROM ancestors a JOIN classes p ON p.oid = a.ancestor
    GROUP BY a.child
), protected AS MATERIALIZED (
    SELECT c.oid, c.relowner, c.relforcerowsecurity
    FROM classes c LEFT JOIN children h ON h.child = c.oid
    WHERE c.relrowsecurity OR h.protected_parent IS NOT NULL
), over AS (
    SELECT oid AS relation FROM protected
    UNION
    SELECT r.ev_class
    FROM over o
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass
         AND d.refobjid = o.relation AND d.classid = 'pg_catalog.pg_rewrite'::regclass
    JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
    JOIN classes v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
), functions AS MATERIALIZED (
    SELECT p.oid, p.proname, p.prosecdef, p.proowner, p.prorettype, l.lanname,
           lower(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)) AS source,
           format('%I.%I(%s)', n.nspname, p.proname,
                  pg_get_function_identity_arguments(p.oid)) AS name,
           n.usable AND has_function_privilege(p.oid, 'EXECUTE') AS callable
    FROM pg_catalog.pg_proc p
    JOIN spaces n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE p.prokind IN ('f', 'p')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                        AND d.objid = p.oid AND d.deptype = 'e')
), readers AS (
    SELECT oid, proname FROM functions WHERE strpos(source, lower(quote_literal($1::text))) > 0
    UNION
    SELECT f.oid, f.proname
    FROM readers r JOIN functions f ON strpos(f.source, lower(r.proname)) > 0
         AND (r.proname !~ '^\w+$' OR f.source ~ ('\m' || lower(r.proname) || '\s*\('))
), touching AS (
    SELECT f.oid, f.proname
    FROM functions f
    WHERE f.lanname NOT IN ('sql', 'plpgsql')
       OR (f.lanname = 'plpgsql' AND f.source ~ '\mexecute\M')
       OR EXISTS (SELECT FROM over o JOIN classes c ON c.oid = o.relation
                  WHERE strpos(f.source, lower(c.relname)) > 0
                    AND (c.relname !~ '^\w+$' OR f.source ~ ('\m' || lower(c.relname) || '\M')))
    UNION
    SELECT f.oid, f.proname
    FROM touching t JOIN functions f ON strpos(f.source, lower(t.proname)) > 0
         AND (t.proname !~ '^\w+$' OR f.source ~ ('\m' || lower(t.proname) || '\s*\('))
), policies AS MATERIALIZED (
    SELECT p.oid, p.polrelid,
           p.polroles @> '{0}'
               OR EXISTS (SELECT FROM unnest(p.polroles) AS role
                          WHERE role <> 0 AND pg_has_role(role, 'USAGE')) AS applies,
           jsonb_build_object(
               'name', p.polname,
               'quoted', quote_ident(p.polname),
               'permissive', p.polpermissive,
               'command', p.polcmd,
               'using', pg_get_expr(p.polqual, p.polrelid),
               'check', pg_get_expr(p.polwithcheck, p.polrelid),
               'readers', (SELECT coalesce(jsonb_agg(r.proname), '[]')
                           FROM pg_catalog.pg_depend d JOIN readers r ON r.oid = d.refobjid
                           WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid
                             AND d.refclassid = 'pg_catalog.pg_proc'::regclass),
               'leans_on_rls', EXISTS (
                   SELECT FROM pg_catalog.pg_depend d JOIN over o ON o.relation = d.refobjid
                   WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid
                     AND d.refclassid = 'pg_catalog.pg_class'::regclass
                     AND d.refobjid <> p.polrelid)) AS facts
    FROM pg_catalog.pg_policy p
), policy_sets AS MATERIALIZED (
    SELECT polrelid, jsonb_agg(facts -> 'name') AS names,
           jsonb_agg(facts ORDER BY facts ->> 'name') FILTER (WHERE applies) AS applying
    FROM policies
    GROUP BY polrelid
)
SELECT 'table' AS kind, c.name AS object, jsonb_build_object(
    'name', c.relname,
    'rls', c.relrowsecurity,
    'forced', c.relforcerowsecurity,
    'foreign', c.relkind = 'f',
    'grantees', coalesce(c.grantees, quote_ident(current_user)),
    'truncate', has_table_privilege(c.oid, 'TRUNCATE'),
    'protected_parent', h.protected_parent,
    'parent_reachable', c.relispartition AND coalesce(h.parent_reachable, false),
    'policy_names', coalesce(s.names, '[]'),
    'policies', coalesce(s.applying, '[]'),
    'expression_index', EXISTS (SELECT FROM pg_catalog.pg_index i
                                WHERE i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] = 0),
    'columns', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', t.attname,
            'quoted', quote_ident(t.attname),
            'type', format_type(t.atttypid, NULL),
            'text', y.oid IN ('text'::regtype, 'varchar'::regtype),
            -- A cast of these changes nothing but the label, so an index still serves.
            'relabelled', y.oid = 'varchar'::regtype OR y.typtype = 'd',
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
        FROM pg_catalog.pg_attribute t JOIN pg_catalog.pg_type y ON y.oid = t.atttypid
        WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped)
) AS facts
FROM classes c
LEFT JOIN children h ON h.child = c.oid
LEFT JOIN policy_sets s ON s.polrelid = c.oid
WHERE c.reachable AND c.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT DISTINCT 'reader', f.name,
       jsonb_build_object('definition', pg_get_functiondef(f.oid))
FROM functions f
JOIN pg_catalog.pg_depend d ON d.refobjid = f.oid
     AND d.refclassid = 'pg_catalog.pg_proc'::regclass
     AND d.classid = 'pg_catalog.pg_policy'::regclass
JOIN policies p ON p.oid = d.objid AND p.applies
JOIN classes c ON c.oid = p.polrelid AND c.reachable
WHERE strpos(f.source, lower(quote_literal($1::text))) > 0
UNION ALL
SELECT 'view', c.name, jsonb_build_object(
    'materialized', c.relkind = 'm',
    'grantees', coalesce(c.grantees, quote_ident(current_user)),
    -- CASE, for other options' values do not cast.
    'invoker', coalesce((SELECT bool_or(CASE WHEN o.option_name = 'security_invoker'
                                             THEN o.option_value::boolean ELSE false END)
                         FROM pg_options_to_table(c.reloptions) AS o), false))
FROM classes c
JOIN over v ON v.relation = c.oid
WHERE c.reachable AND c.relkind IN ('v', 'm')
UNION ALL
SELECT 'function', f.name, jsonb_build_object('owner', quote_ident(r.rolname))
FROM functions f
JOIN touching t ON t.oid = f.oid
JOIN pg_catalog.pg_roles r ON r.oid = f.proowner
WHERE f.prosecdef AND f.callable
  AND f.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
  AND EXISTS (SELECT FROM protected p
              WHERE has_table_privilege(r.oid, p.oid, 'SELECT, INSERT, UPDATE, DELETE')
                AND (r.rolsuper OR r.rolbypassrls
                     OR (NOT p.relforcerowsecurity AND pg_has_role(r.oid, p.relowner, 'USAGE'))))
"""
