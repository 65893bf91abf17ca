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
# Long texts are sent again: their bytes cost little beside their parsing, and much in memory.
_MAX_LENGTH = 16 * 1024
_MAX_BYTES = 256 * 1024


class OwnStatement(NamedTuple):
    """A statement of the client's own.

    Args:
        query: Its text.
        params: What its placeholders get.
        types: The types of these.
        formats: The formats of these.
        is_kept: Whether it is prepared at its first use.
        signed: The settings whose values its parameters are, from the second on, where a session
            signs them.
    """

    query: bytes
    params: Sequence[bytes] | None = None
    types: tuple[int, ...] = ()
    formats: Sequence[int] | None = None
    is_kept: bool = True
    signed: tuple[bytes, ...] = ()


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

    __slots__ = (
        "_bytes_counted",
        "_bytes_prepared",
        "_number",
        "_uses",
        "columns",
        "compared_functions",
        "context",
        "enabled",
        "functions",
        "is_guarded",
        "last_context",
        "names",
        "plans_are_unsafe",
        "resets_apart",
        "unnamed_guard",
    )

    def __init__(self) -> None:
        #: Whether libpq and the server agree on the process: no pooler stands between.
        self.enabled = False
        #: The guard that is the server's unnamed statement, and needs no parsing again.
        self.unnamed_guard: bytes | None = None
        #: What gives the caller's statements their context: those of users run under another role
        #: than an administrator's, and no plan is shared between roles.
        self.context = b""
        #: The functions of the database, as PLAN_CHECK found them and found them harmless.
        self.functions: bytes | None = None
        #: What the guard compares the functions with; None where it need not.
        self.compared_functions: bytes | None = None
        #: For whom the last batch ran that could leave a plan behind.
        self.last_context: OwnStatement | None = None
        #: Whether a plan that is kept could have an identity in it: then none is kept.
        self.plans_are_unsafe = False
        #: Whether the reset needs a transaction of its own.
        self.resets_apart = True
        #: Whether the guard leads the current batch.
        self.is_guarded = False
        self._bytes_counted = 0
        self._bytes_prepared = 0
        #: Names and types by context and text; the types are compared, since one text may come
        #: with others.
        self.names: dict[_Key, tuple[bytes, tuple[int, ...]]] = {}
        #: The columns of what is prepared under a name: the server refuses to change them.
        self.columns: dict[bytes, list[str]] = {}
        self._uses: dict[_Key, int] = {}
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self.names)

    def key_of(self, statement: PostgresQuery | OwnStatement) -> _Key:
        """Return what a statement is remembered by."""
        # Our own bring their context, or need none.
        if type(statement) is OwnStatement:
            return statement.query
        return self.context, statement.query

    def name_of(self, statement: PostgresQuery | OwnStatement) -> bytes | None:
        """Return the name under which it is prepared, or None."""
        found = self.names.get(self.key_of(statement))
        return found[0] if found is not None and found[1] == statement.types else None

    def name_to_prepare(self, statement: PostgresQuery | OwnStatement) -> bytes | None:
        """Count one more use; return a name to prepare it under, or None."""
        key = self.key_of(statement)
        if not self.enabled or self.plans_are_unsafe or self.full or key in self.names:
            return None
        if isinstance(statement, OwnStatement):
            return self.new_name() if statement.is_kept else None
        uses = self._count_use(key, len(statement.query))
        # Its plan is kept: only behind the guard is it known to have no identity in it.
        return self.new_name() if uses >= _PREPARE_AFTER and self.is_guarded else None

    def _count_use(self, key: _Key, length: int) -> int:
        if length > _MAX_LENGTH:
            return 0
        if (uses := self._uses.get(key, 0)) == 0:
            if len(self._uses) >= _MAX_COUNTED or self._bytes_counted + length > _MAX_BYTES:
                self._uses.clear()
                self._bytes_counted = 0
            self._bytes_counted += length
        self._uses[key] = uses + 1
        return uses + 1

    def begin_batch(self, context: OwnStatement) -> None:
        """Decide what the guard of a batch has to compare, should one lead it.

        Args:
            context: Gives the batch its identity, another one than the last batch's or the same.
        """
        # Once for the first other identity, and always from then on: to change between the two
        # guards would cost more than to compare.
        if context != self.last_context or self.compared_functions is not None:
            self.compared_functions = self.functions
        self.last_context = context

    def new_name(self) -> bytes:
        """Return a name; never the same twice, since what was forgotten may still be there."""
        self._number += 1
        return _NAME % self._number

    def add(self, parse: Parse) -> None:
        """Remember a preparation that the server has confirmed."""
        self.names[parse.key] = (parse.name, parse.types)
        self._bytes_prepared += len(parse.key if isinstance(parse.key, bytes) else parse.key[1])

    def forget(self) -> None:
        """Forget all names: the server is told to."""
        self.names.clear()
        self.columns.clear()
        self._bytes_prepared = 0

    @property
    def full(self) -> bool:
        """Whether there is no place for another prepared statement."""
        return len(self.names) >= _MAX_PREPARED or self._bytes_prepared > _MAX_BYTES

    def is_out_of_date(self, error: psycopg.Error) -> bool:
        """Return True when the server refused a prepared statement before it ran any of it.

        Somebody's DEALLOCATE took it away, or a table's columns have changed. The same errors out
        of a function have a context: there, something may have run.
        """
        if error.diag.context is not None:
            return False
        return (error.sqlstate, error.diag.source_function) in {
            ("26000", "FetchPreparedStatement"),
            ("0A000", "RevalidateCachedQuery"),
        }


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
