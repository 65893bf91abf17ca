"""What comes before a caller's statement in its batch: the reset, BEGIN, and the context.

A session that keeps plans is reset by prepared statements behind a guard; any other by DISCARD ALL.
Whatever the guard finds, or a plan that no longer fits, has the batch fail before the caller's
statement has run: it is sent again behind DISCARD ALL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import is_connection_loss
from .plan_check import PLAN_CHECK
from .session import BatchError
from .transaction_sql import (
    BEGIN,
    GUARD,
    MODES_GUARD,
    PREPARED_RESET,
    PREPARED_RESET_APART,
    RESET,
    ROLLBACK,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

    from .prepared import OwnStatement
    from .session import Session, Statement

__all__ = ["BatchHead", "undo"]

# What the guard fails with when it finds what SQL has left, and when a function was made or
# replaced; and the BEGIN behind it when the transaction has other modes.
_FOUND, _OTHER_FUNCTIONS, _OTHER_MODES = "22012", "22003", "25001"
_FULL_RESET = (RESET, BEGIN)
_PREPARED_RESET: tuple[Statement, ...] = (MODES_GUARD, *PREPARED_RESET)
# The same guard, which the session need not parse again.
_PREPARED_RESET_BEFORE_SEVERAL: tuple[Statement, ...] = (MODES_GUARD, *PREPARED_RESET_APART)
_PREPARED_RESET_OF_OTHER_MODES: tuple[Statement, ...] = (GUARD, *PREPARED_RESET_APART)


class BatchHead:
    """The head of one batch.

    Args:
        context: The statement that gives the transaction its context.
        goes_on: Whether the transaction goes on behind the caller's statement. A ROLLBACK in the
            SQL of a later one would bring back what the transaction itself has reset, so the reset
            has one of its own.
    """

    __slots__ = ("_checks_plans", "_context", "_goes_on", "_reset_is_prepared", "user_index")

    def __init__(self, context: OwnStatement, *, goes_on: bool = False) -> None:
        self._context = context
        self._goes_on = goes_on
        #: Where the caller's statement comes in the batch.
        self.user_index = 0
        self._reset_is_prepared = False
        self._checks_plans = False

    def statements(self, session: Session) -> tuple[Statement, ...]:
        """Return what *session* needs to have sent first.

        Args:
            session: Where the batch will run.

        Raises:
            ClientError: There is no key to sign with.
        """
        head: tuple[Statement, ...] = _FULL_RESET
        prepared = session.prepared
        prepared.context = self._context.query
        prepared.begin_batch(self._context)
        self._checks_plans = self._reset_is_prepared = False
        if prepared.functions is None:
            self._checks_plans = prepared.enabled and not prepared.plans_are_unsafe
        else:
            self._reset_is_prepared = bool(prepared.names) and not prepared.full
        if self._checks_plans:
            head = (RESET, PLAN_CHECK, BEGIN)
        elif self._reset_is_prepared:
            if prepared.resets_apart:
                head = _PREPARED_RESET_OF_OTHER_MODES
            else:
                head = _PREPARED_RESET_BEFORE_SEVERAL if self._goes_on else _PREPARED_RESET
        self.user_index = len(head) + 1
        return (*head, session.contextual(self._context))

    def full_reset(self, session: Session, begin: bytes = BEGIN) -> tuple[Statement, ...]:
        """Return what resets any session, and keeps no plan.

        Args:
            session: Where the batch will run.
            begin: The statement that opens the transaction.

        Raises:
            ClientError: There is no key to sign with.
        """
        self.user_index = 3
        return RESET, begin, session.contextual(self._context)

    def learn(self, session: Session, results: Sequence[PGresult]) -> None:
        """Note what the head's answers say of *session*.

        Args:
            session: Where the batch has run.
            results: Its results.
        """
        prepared, context = session.prepared, results[self.user_index - 1]
        prepared.enabled = context.get_value(0, 0) == session.backend_pid
        if self._checks_plans:
            prepared.plans_are_unsafe = results[1].get_value(0, 1) != b"f"
            prepared.functions = None if prepared.plans_are_unsafe else results[1].get_value(0, 0)
            prepared.resets_apart = results[1].get_value(0, 2) != b"t"

    def is_out_of_date(self, session: Session, failure: BatchError) -> bool:
        """Return True when the batch ended before the caller's statement ran, but may yet run.

        Once ``undo`` has reset the session, the next head does not fail in that way.

        Args:
            session: Where the batch has run.
            failure: How it ended.
        """
        if failure.index is None or is_connection_loss(failure.error):
            return False
        if self._checks_plans and failure.index == 1:
            # Whatever keeps this role from reading the catalogue: no plan is kept then.
            session.prepared.plans_are_unsafe = True
            return True
        if not self._reset_is_prepared:
            return False
        if failure.index < self.user_index:
            # The guard found what SQL had prepared, or other functions than those that were
            # checked; or SQL's leftovers are in the way, such as other modes for transactions.
            if failure.error.sqlstate in {_FOUND, _OTHER_FUNCTIONS, _OTHER_MODES}:
                # Functions and modes are asked for again: what was found may be the server's new
                # default.
                session.prepared.functions = None
            return True
        return failure.index <= self.user_index and session.prepared.is_out_of_date(failure.error)


def undo(session: Session) -> bool:
    """Roll back and reset; a session that fails at that is closed.

    Args:
        session: Where a batch has failed.

    Returns:
        Whether it is clean now.
    """
    try:
        session.run_batch((ROLLBACK, RESET))
    except BatchError:
        # The statement's own error is the one to report; give_back sees the dead session.
        session.close()
        return False
    return True
