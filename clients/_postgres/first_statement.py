"""A transaction's first statement, sent in one round trip with what opens the transaction.

psycopg's cursor converts the statement and later reads its result; only the sending is ours. That
leans on ``Cursor._maybe_prepare_gen`` and ``Cursor._set_results``, which are semi-public and pinned
by ``tests/unit/test_psycopg_contract.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg._queries import PostgresQuery
    from psycopg.abc import Params, PQGen
    from psycopg.pq.abc import PGresult

    from .session import Session, Statement

__all__ = ["FirstStatement"]


class _OpeningCursor(psycopg.Cursor[Any]):
    """A cursor whose first statement is sent by somebody else."""

    send: Callable[[PostgresQuery], PGresult] | None = None

    def _maybe_prepare_gen(
        self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        send, self.send = self.send, None
        if send is None:
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        else:
            self._set_results([send(pgq)])


class FirstStatement:
    """A statement that opens its transaction.

    Args:
        query: SQL with placeholders.
        params: Values for them; None: ``%`` in the query is literal.
    """

    def __init__(self, query: Any, params: Params | None) -> None:
        self.query = query
        self.params = params
        #: psycopg's cursor with the result, once it has run.
        self.cursor: Any = None
        #: What the server said of it, when it failed.
        self.error: psycopg.Error | None = None

    def run_behind(self, head: Sequence[Statement], session: Session) -> list[PGresult]:
        """Run it behind *head* in one batch.

        Args:
            head: What opens the transaction.
            session: Where it is run.

        Returns:
            The results of *head*, and its own.

        Raises:
            BatchError: One of the statements failed, this one included.
            psycopg.Error: It cannot be converted; nothing was sent.
        """
        answers: list[PGresult] = []
        guard = session.prepared.unnamed_guard

        def send(converted: PostgresQuery) -> PGresult:
            # psycopg has sent nothing yet, though its connection waits already.
            session.prepared.unnamed_guard = guard
            answers.extend(session.run_batch((*head, converted)))
            return answers[len(head)]

        cursor = _OpeningCursor(session.conn, row_factory=tuple_row)
        cursor.send = send
        cursor.execute(self.query, self.params)
        self.cursor = cursor
        return answers
