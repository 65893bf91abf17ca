"""A cursor that knows whether its SQL committed before it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["CommitCursor"]

# https://www.postgresql.org/docs/18/protocol-message-formats.html: END and AND CHAIN say COMMIT,
# and a COMMIT of what has failed says ROLLBACK.
_COMMITS: Final = frozenset({b"COMMIT", b"PREPARE TRANSACTION"})


class CommitCursor(psycopg.Cursor[Any]):
    """psycopg's cursor, which drops the results of the statements before one that failed."""

    __slots__ = ("has_committed",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Whether a statement of the last text has committed the transaction that it began in.
        self.has_committed = False

    def _check_results(self, results: list[PGresult]) -> None:
        self.has_committed = len(results) > 1 and any(
            result.command_status in _COMMITS for result in results
        )
        super()._check_results(results)
