"""Whether a plan that was made for one identity may run for another.

PostgreSQL keeps the plans of prepared statements, and those of the statements inside functions. It
computes a function that is labelled IMMUTABLE once, while it plans, and keeps the value: where
such a function reads the identity, in a policy, a view, a default or the statement itself, the
plan has the identity of its first user in it.
https://www.postgresql.org/docs/18/xfunc-volatility.html

So plans are kept only where no IMMUTABLE function of the database can read an identity. A session
checks that once, with PLAN_CHECK. Before a batch of another identity than the last one's, the guard
compares the versions of all the functions with those that were checked: they are the same, and so
was every function that a plan was made with in between, or nothing runs before all plans are
dropped and the functions are checked again. Where they fail the check, every batch begins with
DISCARD ALL, which drops all plans.

One thing is beyond all this: the expressions of domains' CHECKs, indexes and partition keys are
planned once for a session, and DISCARD ALL keeps them. ``check_rls()`` finds those that read the
identity (`clients._rls.kept`).

Functions in C are taken at their word: extensions have them by the hundreds, and the server's own
are in C as well.
"""

from __future__ import annotations

__all__ = ["PLAN_CHECK", "SAME_FUNCTIONS"]

# Of the database itself, and neither internal nor in C; aggregates are made of others.
# https://www.postgresql.org/docs/18/system-catalog-initial-data.html
_OWN_FUNCTIONS = (
    b"pg_catalog.pg_proc AS p WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid"
    b" AND (p.prolang OPERATOR(pg_catalog.>) 13::pg_catalog.oid"
    b" OR p.prokind OPERATOR(pg_catalog.=) 'a'::pg_catalog.\"char\")"
)

#: True as long as all functions are those of the parameter, the first column of PLAN_CHECK: a
#: replaced one has another xmin. An index scan, which costs microseconds for some dozen functions.
SAME_FUNCTIONS = (
    b"pg_catalog.array_eq(COALESCE((SELECT pg_catalog.array_agg(f.version) FROM"
    b" (SELECT p.xmin AS version FROM %b ORDER BY p.oid) AS f), '{}'), $1::pg_catalog.xid[])"
    % _OWN_FUNCTIONS
)

# What the body of a function needs in order to read a setting, a table that policies filter, or
# anything in a roundabout way; and a name in Unicode escapes, which may be any of them. A function
# of another language may do all of that.
_READS = b'setting|show|execute|from|table|_to_xml|u&"'

#: Its columns: the versions of the functions, whether one may carry an identity into a plan, and
#: whether transactions begin as PREPARED_RESET has it: an older server has no transaction_timeout.
PLAN_CHECK = b"""
WITH own AS MATERIALIZED (
    SELECT p.oid, p.version, lower(p.proname) AS name, lower(p.prosrc) AS body,
        p.provolatile = 'i' AS is_immutable,
        l.lanname IN ('sql', 'plpgsql') AND to_jsonb(p) ->> 'prosqlbody' IS NULL AS is_readable
    FROM (SELECT p.xmin AS version, p.* FROM %b) AS p
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
)
SELECT COALESCE((SELECT array_agg(own.version ORDER BY own.oid) FROM own), '{}'),
    EXISTS (SELECT FROM own WHERE own.is_immutable AND (
        NOT own.is_readable
        OR own.body ~ '%b'
        OR EXISTS (SELECT FROM own AS o WHERE o.oid <> own.oid AND strpos(own.body, o.name) > 0)
        OR EXISTS (SELECT FROM pg_catalog.pg_operator AS o JOIN own AS f ON f.oid = o.oprcode)
        OR EXISTS (SELECT FROM pg_catalog.pg_cast AS c JOIN own AS f ON f.oid = c.castfunc)
    )),
    current_setting('transaction_isolation') = 'read committed'
    AND current_setting('transaction_read_only') = 'off'
    AND current_setting('transaction_deferrable') = 'off'
    AND COALESCE(current_setting('transaction_timeout', true), '0') = '0'
""" % (_OWN_FUNCTIONS, _READS)
