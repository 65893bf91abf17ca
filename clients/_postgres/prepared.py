"""Statements that a session has prepared: parsing and planning again costs more than running.

Only where nothing stands between: behind a transaction-pooling proxy the next transaction may
meet another session. They are prepared within the batch that uses them, so that it stays one
round trip. https://www.postgresql.org/docs/18/sql-prepare.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from psycopg.pq import ExecStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    from psycopg._queries import PostgresQuery
    from psycopg.pq.abc import PGresult

__all__ = ["OwnStatement", "Parse", "PreparedStatements", "without_parses"]

#: The text of a statement, and for a caller's what gives it its context.
_Key: TypeAlias = bytes | tuple[bytes, bytes]

_NAME = b"failfast_%d"
# As often as psycopg waits for before it prepares a statement.
_PREPARE_AFTER = 5
# The server keeps each in memory, and goes through them at every batch.
_MAX_PREPARED = 50
_MAX_COUNTED = 1000


class OwnStatement(NamedTuple):
    """A statement of the client's own that runs in every batch: worth preparing at once."""

    query: bytes
    params: Sequence[bytes] | None = None
    types: tuple[int, ...] = ()
    formats: Sequence[int] | None = None


class Parse(NamedTuple):
    """One preparation within a batch.

    Args:
        position: Which statement of the batch is prepared.
        key: What it is remembered by.
        types: The types of its parameters.
        name: Under which name.
    """

    position: int
    key: _Key
    types: tuple[int, ...]
    name: bytes


class PreparedStatements:
    """What one session has prepared."""

    __slots__ = ("_names", "_number", "_uses", "context", "enabled", "guard_is_unnamed")

    def __init__(self) -> None:
        #: Whether libpq and the server agree on the process: no pooler stands between.
        self.enabled = False
        #: Whether the server's unnamed statement is the guard, and needs no parsing again.
        self.guard_is_unnamed = False
        #: What gives the caller's statements their context: those of users run under another role
        #: than an administrator's, and no plan is shared between roles.
        self.context = b""
        # By context and text; the types are compared, since one text may come with others.
        self._names: dict[_Key, tuple[bytes, tuple[int, ...]]] = {}
        self._uses: dict[_Key, int] = {}
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._names)

    def key_of(self, statement: PostgresQuery | OwnStatement) -> _Key:
        """Return what a statement is remembered by."""
        # Our own bring their context, or need none.
        if type(statement) is OwnStatement:
            return statement.query
        return self.context, statement.query

    def name_of(self, statement: PostgresQuery | OwnStatement) -> bytes | None:
        """Return the name under which it is prepared, or None."""
        found = self._names.get(self.key_of(statement))
        return found[0] if found is not None and found[1] == statement.types else None

    def name_to_prepare(self, statement: PostgresQuery | OwnStatement) -> bytes | None:
        """Count one more use; return a name to prepare it under, or None."""
        key = self.key_of(statement)
        if not self.enabled or self.full or key in self._names:
            return None
        if not isinstance(statement, OwnStatement):
            if len(self._uses) >= _MAX_COUNTED:
                self._uses.clear()
            uses = self._uses[key] = self._uses.get(key, 0) + 1
            if uses < _PREPARE_AFTER:
                return None
        return self.new_name()

    def new_name(self) -> bytes:
        """Return a name; never the same twice, since what was forgotten may still be there."""
        self._number += 1
        return _NAME % self._number

    def add(self, parse: Parse) -> None:
        """Remember a preparation that the server has confirmed."""
        self._names[parse.key] = (parse.name, parse.types)

    def forget(self) -> None:
        """Forget all names: the server is told to."""
        self._names.clear()

    @property
    def full(self) -> bool:
        """Whether a statement that is worth it now would find no place."""
        return len(self._names) >= _MAX_PREPARED

    def is_out_of_date(self, error: psycopg.Error) -> bool:
        """Return True when the server refused a prepared statement before it ran any of it.

        Somebody's DEALLOCATE took it away, or a table's columns have changed. The same errors out
        of a function have a context: there, something may have run.
        """
        if error.diag.context is not None:
            return False
        if error.sqlstate == "26000":
            return _NAME.split(b"%")[0].decode() in (error.diag.message_primary or "")
        return error.sqlstate == "0A000" and error.diag.source_function == "RevalidateCachedQuery"


def without_parses(
    results: list[PGresult], parses: Sequence[Parse], prepared: PreparedStatements
) -> list[PGresult]:
    """Remember what was prepared, and return one result for each statement."""
    kept = list(results)
    for parse in parses:
        if parse.position >= len(kept):
            break
        if kept[parse.position].status == ExecStatus.COMMAND_OK:
            prepared.add(parse)
            del kept[parse.position]
        else:
            # Refused, or skipped after a refusal: its statement was skipped as well.
            del kept[parse.position + 1 : parse.position + 2]
    return kept
