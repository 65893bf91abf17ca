"""Statements that cannot run inside somebody else's transaction, and what to use for them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from psycopg import sql

from ..errors import PostgresError

if TYPE_CHECKING:
    from psycopg.abc import Query

__all__ = ["refuse_unsuitable"]

_TRANSACTION = "use connection(), which begins and ends the transaction itself"
_OUTSIDE = "it cannot run inside a transaction: use a plain psycopg connection with autocommit"
_COPY = (
    "use connection() and conn.cursor().copy() for COPY TO; COPY FROM is not supported by "
    "PostgreSQL on tables with row-level security: use execute_many()"
)
_SESSION = "it would change the session for its next borrower, and is undone anyway"

_UNSUITABLE = {
    "ABORT": _TRANSACTION,
    "BEGIN": _TRANSACTION,
    "COMMIT": _TRANSACTION,
    "END": _TRANSACTION,
    "PREPARE TRANSACTION": _TRANSACTION,
    "RELEASE": _TRANSACTION,
    "ROLLBACK": _TRANSACTION,
    "SAVEPOINT": _TRANSACTION,
    "START TRANSACTION": _TRANSACTION,
    "COPY": _COPY,
    "ALTER SYSTEM": _OUTSIDE,
    "CREATE DATABASE": _OUTSIDE,
    "CREATE INDEX CONCURRENTLY": _OUTSIDE,
    "CREATE TABLESPACE": _OUTSIDE,
    "CREATE UNIQUE INDEX CONCURRENTLY": _OUTSIDE,
    "DROP DATABASE": _OUTSIDE,
    "DROP INDEX CONCURRENTLY": _OUTSIDE,
    "DROP TABLESPACE": _OUTSIDE,
    "REINDEX DATABASE": _OUTSIDE,
    "REINDEX SYSTEM": _OUTSIDE,
    "VACUUM": _OUTSIDE,
    "DISCARD": _SESSION,
    "LISTEN": _SESSION,
}
_WORDS = tuple((tuple(phrase.split()), mend) for phrase, mend in _UNSUITABLE.items())
_FIRST_WORDS = frozenset(words[0] for words, _ in _WORDS)
_LONGEST = max(len(words) for words, _ in _WORDS)

_SKIP = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|;)*")
# PostgreSQL's block comments nest.
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_WORD = re.compile(r"[^\W\d][\w$]*")


def refuse_unsuitable(query: Query, method: str) -> None:
    """Refuse a statement that a one-round-trip method cannot run, before anything is sent.

    Args:
        query: The SQL, in any form that psycopg takes.
        method: The method's name, for the message.

    Raises:
        PostgresError: It is one of those; the message says what to use.
    """
    if isinstance(query, sql.Composable):
        query = query.as_bytes()
    if isinstance(query, bytes):
        query = query.decode(errors="replace")
    if not isinstance(query, str):
        # A template string of Python 3.14 has no text before psycopg converts it.
        return
    if "\0" in query:
        # libpq would send the text up to there: perhaps without its WHERE.
        raise PostgresError(f"the query of {method}() contains a NUL character")
    if (found := _unsuitable_phrase(query)) is not None:
        phrase, mend = found
        raise PostgresError(f"{phrase} cannot run in {method}(): {mend}")


@lru_cache(maxsize=512)
def _unsuitable_phrase(query: str) -> tuple[str, str] | None:
    words: list[str] = []
    position = 0
    while len(words) < _LONGEST:
        position = _end_of_skip(query, position)
        word = _WORD.match(query, position)
        if word is None:
            break
        words.append(word.group().upper())
        if words[0] not in _FIRST_WORDS:
            return None
        position = word.end()
    for phrase, mend in _WORDS:
        if tuple(words[: len(phrase)]) == phrase:
            return " ".join(phrase), mend
    return None


def _end_of_skip(query: str, position: int) -> int:
    while True:
        skipped = _SKIP.match(query, position)
        position = skipped.end() if skipped else position
        if not query.startswith("/*", position):
            return position
        depth = 0
        for edge in _COMMENT_EDGE.finditer(query, position):
            depth += 1 if edge.group() == "/*" else -1
            if depth == 0:
                position = edge.end()
                break
        else:
            return len(query)
