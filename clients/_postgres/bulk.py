"""``bulk_insert()``: COPY into a temporary table, and one INSERT whose policies check every row.

PostgreSQL refuses COPY FROM on a table with row-level security, and a row at a time is slow. A
temporary table of the session has no policies; the INSERT ... SELECT out of it has all of them.
https://www.postgresql.org/docs/18/sql-copy.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import psycopg
from psycopg import sql

from .._shared.validation import is_encodable, shown
from ..errors import PostgresConfigurationError, PostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .guarded import GuardedConnection

__all__ = ["BulkInsert", "OnConflict"]

#: What to do about a row that is there already: refuse it (None), leave it, or update the columns
#: that are not named here.
OnConflict: TypeAlias = Literal["nothing"] | Sequence[str] | None

# Types alone, which need no right to read the table; a name that stands for nothing has no rows.
_COLUMN_TYPES = """
    SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
        pg_catalog.current_setting('statement_timeout') AS time_limit
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""

# A set has no order, and a mapping would give its keys.
_NO_ROWS = (str, bytes, AbstractSet, Mapping)


_PLAIN = frozenset((tuple, list))


class BulkInsert:
    """Many rows for one table.

    Args:
        table: The table, with its schema in front where that is not on the search path.
        columns: The columns that each row has values for, in the order of the values.
        on_conflict: What to do about a row that is there already.

    Raises:
        PostgresConfigurationError: One of them is unusable.
    """

    def __init__(self, table: str, columns: Sequence[str], on_conflict: OnConflict) -> None:
        self.table = _name("table", table)
        self._columns = [_name("a column", one) for one in _listed(columns)]
        if not self._columns:
            raise PostgresConfigurationError("columns must be a list of at least one column name")
        if len(set(self._columns)) < len(self._columns):
            raise PostgresConfigurationError(f"columns has a name twice: {self._columns}")
        self._conflict_clause = _conflict_clause(on_conflict, self._columns)

    def run(self, conn: GuardedConnection, rows: Iterable[Sequence[Any]]) -> int:
        """Store *rows*, and return how many were inserted or updated.

        Args:
            conn: An open transaction.
            rows: Sequences of values; they are sent as they come and never held in memory.

        Raises:
            psycopg.Error: The server refused one.
            PostgresError: There is no such table or column, or a row has another length.
        """
        target = sql.Identifier(*self.table.split("."))
        columns = sql.SQL(", ").join(map(sql.Identifier, self._columns))
        # Of its own name: a block may call more than once before its transaction ends.
        staging = sql.Identifier("pg_temp", f"failfast_bulk_{token_hex(8)}")
        found = self._described(conn, target)
        try:
            # The COPY waits for the caller's rows, which is no fault of the server's: what limits
            # it is the role's own time-out alone.
            conn.execute(
                sql.SQL(
                    "CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP;"
                    " SET LOCAL statement_timeout TO DEFAULT"
                ).format(staging, self._definitions(found))
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise PostgresError(
                f"bulk_insert() copies the rows into a temporary table first, and the server "
                f"refused it: {error.diag.message_primary} (SQLSTATE {error.sqlstate}). GRANT "
                "TEMPORARY ON DATABASE to the role, and USAGE on the types and their schemas",
                sqlstate=error.sqlstate,
            ) from error
        with conn.cursor().copy(
            sql.SQL("COPY {} ({}) FROM STDIN").format(staging, columns)
        ) as copy:
            copy.write_rows(self._checked(rows))
        inserted = conn.execute(
            sql.SQL(
                "SET LOCAL statement_timeout = {}; INSERT INTO {} ({}) SELECT {} FROM {}{}"
            ).format(
                found[0]["time_limit"], target, columns, columns, staging, self._conflict_clause
            )
        )
        inserted.nextset()
        stored = inserted.rowcount
        conn.execute(sql.SQL("DROP TABLE {}").format(staging))
        return stored

    def _described(self, conn: GuardedConnection, target: sql.Identifier) -> list[dict[str, Any]]:
        found = conn.execute(_COLUMN_TYPES, (target.as_string(),)).fetchall()
        if not found:
            raise PostgresError(
                f"there is no table {self.table!r} that this role can see: name its schema, too"
            )
        known = {row["attname"] for row in found}
        if unknown := [one for one in self._columns if one not in known]:
            raise PostgresError(
                f"the table {self.table!r} has no column {', '.join(map(repr, unknown))}"
            )
        return found

    def _definitions(self, found: Sequence[dict[str, Any]]) -> sql.Composable:
        types = {row["attname"]: row["format_type"] for row in found}
        return sql.SQL(", ").join(
            # The server's own spelling of a type, quoted where it has to be.
            sql.SQL("{} {}").format(sql.Identifier(one), sql.SQL(types[one]))
            for one in self._columns
        )

    def _checked(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        width = len(self._columns)
        for number, row in enumerate(rows, 1):
            if type(row) in _PLAIN and len(row) == width:
                # Nearly every row: each look at it would be taken a million times.
                yield row
                continue
            unfit = isinstance(row, str | bytes | AbstractSet | Mapping) or not hasattr(
                row, "__len__"
            )
            if unfit or len(row) != width:
                raise PostgresError(
                    f"row {number} for {self.table!r} is {type(row).__name__}, and must be a "
                    f"sequence with one value for each of {width} columns: nothing was stored"
                )
            yield row


def _listed(names: object, *, ordered: bool = True) -> list[Any]:
    """Return what the caller has listed; nothing for what is no list.

    Args:
        names: What was given.
        ordered: Whether their order counts, which a set does not keep.
    """
    if not isinstance(names, Iterable) or isinstance(names, str):
        return []
    return [] if ordered and isinstance(names, set | frozenset) else list(names)


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value or not is_encodable(value):
        raise PostgresConfigurationError(f"{what} is {shown(value)}: it must be a name")
    return value


def _conflict_clause(on_conflict: OnConflict, columns: Sequence[str]) -> sql.Composable:
    if on_conflict is None:
        return sql.SQL("")
    if on_conflict == "nothing":
        return sql.SQL(" ON CONFLICT DO NOTHING")
    keys = _listed(on_conflict, ordered=False)
    if not keys or any(one not in columns for one in keys):
        raise PostgresConfigurationError(
            f"on_conflict is {shown(on_conflict)}: it must be None, 'nothing', or the columns of a "
            "unique constraint, all of them in columns, whose rows are to be updated"
        )
    others = [one for one in columns if one not in keys]
    names = sql.SQL(", ").join(map(sql.Identifier, keys))
    if not others:
        return sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(names)
    changes = sql.SQL(", ").join(
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(one)) for one in others
    )
    return sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {}").format(names, changes)
