"""Statements and parameters that are refused before anything is sent, with what to use instead.

Some cannot run inside a transaction of this client. Some would reach the server as another
statement than the caller wrote: psycopg replaces a placeholder wherever it stands, also inside a
quoted literal, where ``$1`` is text and no parameter: ``interval '%s days'`` would become the
interval of one dollar sign's worth of days, which PostgreSQL reads as ``1 days``.
https://www.psycopg.org/psycopg3/docs/basic/params.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from psycopg import sql

from ..errors import PostgresError
from .errors import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from psycopg.abc import Params, Query

__all__ = [
    "MAX_PARAMETERS",
    "CallersRows",
    "checked_params",
    "refuse_unsendable",
    "refuse_unsuitable",
    "text_of",
    "without_literals",
]

#: The protocol counts parameters in 16 bits.
#: https://www.postgresql.org/docs/18/limits.html
MAX_PARAMETERS = 65535

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
_WORDS = tuple((tuple(phrase.split()), instead) for phrase, instead in _UNSUITABLE.items())
_FIRST_WORDS = frozenset(words[0] for words, _ in _WORDS)
_LONGEST = max(len(words) for words, _ in _WORDS)

# Longer texts are checked at every call: a cache of them would be large, and their time is small
# beside what the server needs for them.
_MAX_CACHED = 4096

_SKIP = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|;)*")
# PostgreSQL's block comments nest.
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_WORD = re.compile(r"[^\W\d][\w$]*")

_PLAIN = frozenset((tuple, list, dict))

# As psycopg finds them; "%%" is a percent sign, which must not be taken for the start of another.
_PLACEHOLDER = re.compile(r"%(?:\(([^)]+)\).|.)", re.DOTALL)
# What is quoted or left out, also without an end. Quotes are escaped by doubling them, and in E''
# by a backslash as well. Any character beyond ASCII can be a part of a name.
# https://www.postgresql.org/docs/18/sql-syntax-lexical.html
# Each class is written as the ASCII that it leaves out: the re module compiles that in a tenth of
# the time that it takes for a range to the end of Unicode.
_TAG_START = r"[^\x00-@\[-\^`{-\x7f]"
_TAG_PART = r"[^\x00-/:-@\[-\^`{-\x7f]"
_NAME_PART = r"[^\x00-\x23%-/:-@\[-\^`{-\x7f]"
_NAME = re.compile(_NAME_PART)
_QUOTED = re.compile(
    rf"""
      (?P<escape> (?<!{_NAME_PART}) [eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z)
                  (?:\s*[\r\n]\s*'(?:[^'\\]|\\.|'')*+(?:'|\Z))* )
    | (?P<literal> '[^']*+(?:''[^']*+)*+(?:'|\Z) )
    | (?P<name> "[^"]*+(?:""[^"]*+)*+(?:"|\Z) )
    | (?P<dollar> (?<!{_NAME_PART}) \$(?P<tag>(?:{_TAG_START}{_TAG_PART}*)?)\$
                  .*?(?:\$(?P=tag)\$|\Z) )
    | (?P<line> --[^\r\n]* )
    | (?P<comment> /\* )
    """,
    re.DOTALL | re.VERBOSE,
)
_LITERALS = frozenset({"escape", "literal", "dollar"})
_NUMBER = re.compile(rf"(?<!{_NAME_PART})(?:\d[\w.]*+(?:(?<=[eE])[+-]\d+)?|\.\d\w*)")
_WHOLE_VALUE = (
    "pass the whole value instead, such as %s, 'prefix' || %s, make_interval(days => %s), or "
    "%s * interval '1 day'; write a percent sign as %%"
)
_LITERAL = ("inside a quoted literal", _WHOLE_VALUE)
_COMMENT = ("inside a comment", "take it out, or write %%")
_PLACES = {
    "escape": _LITERAL,
    "literal": _LITERAL,
    "name": (
        "inside a quoted identifier",
        "use psycopg.sql.Identifier, or write a percent sign as %%",
    ),
    "dollar": (
        "inside a dollar-quoted text",
        "the code of DO and of a function takes no parameters; write a percent sign as %%",
    ),
    "glued": (
        "directly behind a name or a number",
        "put a space in front of it, or use psycopg.sql.Identifier for a name",
    ),
    "line": _COMMENT,
    "comment": _COMMENT,
}


def refuse_unsuitable(query: Query, method: str, params: Params | None = None) -> None:
    """Refuse a statement that a one-round-trip method cannot run, before anything is sent.

    Args:
        query: The SQL, in any form that psycopg takes.
        method: The method's name, for the message.
        params: Its parameters; None leaves every ``%`` as it is.

    Raises:
        PostgresError: It is one of those; the message says what to use.
    """
    if type(query) is str and len(query) <= _MAX_CACHED:
        is_sound = _is_sound_alone if params is None else _is_sound_with_params
        if is_sound(query) and (params is None or len(params) <= MAX_PARAMETERS):
            return
    text = text_of(query)
    problem = (_cached_problem if len(text) <= _MAX_CACHED else _problem)(text)
    if problem is not None:
        raise PostgresError(problem.format(f"{method}()"))
    refuse_unsendable(query, params, f"{method}()")


def refuse_unsendable(query: Query, params: Params | None, action: str) -> None:
    """Refuse a statement that would not reach the server as its caller wrote it.

    Args:
        query: The SQL, in any form that psycopg takes.
        params: Its parameters; None leaves every ``%`` as it is.
        action: What the caller called, for the message.

    Raises:
        PostgresError: A placeholder stands where it is no parameter, or there are too many.
    """
    if params is None and isinstance(query, str | bytes | sql.Composable):
        return
    if (
        type(query) is str
        and params is not None
        and len(query) <= _MAX_CACHED
        and _cached_misplaced(query) is None
        and len(params) <= MAX_PARAMETERS
    ):
        return
    text = text_of(query, placeholders=params is not None)
    find = _cached_misplaced if len(text) <= _MAX_CACHED else _misplaced_placeholder
    if (found := find(text)) is not None:
        raise PostgresError(f"{action} would send another statement than this one: {found}")
    if params is not None and len(params) > MAX_PARAMETERS:
        names = {match[1] for match in _PLACEHOLDER.finditer(text)}
        number = len(names) if isinstance(params, Mapping) else len(params)
        if number > MAX_PARAMETERS:
            raise PostgresError(
                f"{action} has {number} parameters, and the protocol takes {MAX_PARAMETERS}: pass "
                "a list as one parameter, such as = ANY(%s) or unnest(%s), or use execute_many()"
            )


def checked_params(params: object, action: str) -> Params | None:
    """Return the parameters of a call, or None when there are none.

    Args:
        params: What the caller passed.
        action: What the caller called, for the message.

    Raises:
        PostgresError: They are neither a sequence nor a mapping.
    """
    if params is None:
        return None
    if type(params) in _PLAIN:
        return params or None  # type: ignore[return-value]  # as _PLAIN says
    if isinstance(params, Mapping) or (
        isinstance(params, Sequence) and not isinstance(params, str | bytes | bytearray)
    ):
        try:
            return params if len(params) else None
        except Exception as error:
            # The caller's own class.
            raise PostgresError(
                f"the parameters of {action} cannot be read: {describe(error)}"
            ) from error
    raise PostgresError(
        f"the parameters of {action} are {type(params).__name__}: they must be a sequence such as "
        "a list or a tuple, or a mapping for %(name)s placeholders; one value is written (value,)"
    )


class CallersRows:
    """The caller's iterable of rows, which remembers a failure of its own.

    Args:
        rows: The parameters of each run of a statement.
    """

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = rows
        #: What the iterable has raised: the caller's own error, which comes out unchanged.
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        if not hasattr(self._rows, "__iter__") and not hasattr(self._rows, "__getitem__"):
            raise PostgresError(
                f"the rows are {type(self._rows).__name__}: they must be an iterable of parameters"
            )
        try:
            rows = iter(self._rows)
        except Exception as error:
            self.failure = error
            raise
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                self.failure = error
                raise
            yield row


def text_of(query: Any, *, placeholders: bool = True) -> str:
    """Return the SQL as text; an approximate one where psycopg fills it in for the connection."""
    if isinstance(query, sql.Composable):
        query = _bytes_of(query)
    if isinstance(query, bytes):
        # A character for each byte: what is looked for is ASCII.
        return query.decode("latin-1")
    if isinstance(query, str):
        return query
    # A template string of Python 3.14, whose values stand between its strings.
    strings = [str(part).replace("%", "%%") for part in getattr(query, "strings", ())]
    return ("%s" if placeholders or strings else "").join(strings)


def without_literals(query: str, *, numbers: bool = True) -> str:
    """Return SQL with a question mark in place of every literal, for who may not see values.

    Args:
        query: The SQL.
        numbers: Whether a number is a literal too; beside parameters it is the statement's own.
    """
    return (_cached_masking if len(query) <= _MAX_CACHED else _masked)(query, numbers)


def _masked(query: str, numbers: bool) -> str:  # noqa: FBT001 - its cache knows no keywords
    def plain(text: str) -> str:
        return _NUMBER.sub("?", text) if numbers else text

    parts, position = [], 0
    while (region := _QUOTED.search(query, position)) is not None:
        kind, start, end = region.lastgroup or "", *region.span()
        if kind == "comment":
            end = _end_of_comment(query, start)
        parts.append(plain(query[position:start]))
        if kind == "name":
            parts.append(query[start:end])
        # A comment may quote what was commented out.
        parts.append("?" if kind in _LITERALS else "")
        position = end
    return "".join([*parts, plain(query[position:])])


_cached_masking = lru_cache(maxsize=512)(_masked)


def _bytes_of(query: sql.Composable) -> bytes:
    """Return what psycopg makes of *query*; ``NULL`` stands for values that it needs more for.

    The connection may know their types, and else complains when it makes the statement.
    """
    try:
        return query.as_bytes()
    except Exception:  # noqa: BLE001 - of whatever is in it
        if isinstance(query, sql.Composed):
            return b"".join(map(_bytes_of, query))
        return b"NULL"


def _problem(query: str) -> str | None:
    """Say why no method but a block can run *query*; with a place for the method's name."""
    if "\0" in query:
        # libpq would send the text up to there: perhaps without its WHERE.
        return "the query of {} contains a NUL character"
    if (found := _unsuitable_phrase(query)) is None:
        return None
    phrase, instead = found
    return f"{phrase} cannot run in {{}}: {instead}"


_cached_problem = lru_cache(maxsize=512)(_problem)


@lru_cache(maxsize=512)
def _is_sound_alone(query: str) -> bool:
    return _problem(query) is None


@lru_cache(maxsize=512)
def _is_sound_with_params(query: str) -> bool:
    return _problem(query) is None and _misplaced_placeholder(query) is None


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
    for phrase, instead in _WORDS:
        if tuple(words[: len(phrase)]) == phrase:
            return " ".join(phrase), instead
    return None


def _end_of_skip(query: str, position: int) -> int:
    while True:
        skipped = _SKIP.match(query, position)
        position = skipped.end() if skipped else position
        if not query.startswith("/*", position):
            return position
        position = _end_of_comment(query, position)


def _end_of_comment(query: str, position: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(query, position):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(query)


def _misplaced_placeholder(query: str) -> str | None:
    """Say which placeholder stands where it is no parameter, and what to write instead."""
    # psycopg itself complains of other characters behind the percent sign.
    found = (match for match in _PLACEHOLDER.finditer(query) if match.group()[-1] in "sbt")
    place, start, end = "", 0, 0
    for placeholder in found:
        position = placeholder.start()
        while end <= position:
            if (region := _QUOTED.search(query, end)) is None:
                start, end = len(query), len(query) + 1
                break
            place, start, end = region.lastgroup or "", *region.span()
            if place == "comment":
                end = _end_of_comment(query, start)
        if start <= position:
            return _misplaced(query, placeholder, place)
        if position and _NAME.match(query, position - 1):
            return _misplaced(query, placeholder, "glued")
    return None


def _misplaced(query: str, placeholder: re.Match[str], place: str) -> str:
    line = query.count("\n", 0, placeholder.start()) + 1
    where, instead = _PLACES[place]
    return (
        f"the placeholder {placeholder.group()} in line {line} stands {where}, where it is no "
        f"parameter: {instead}"
    )


_cached_misplaced = lru_cache(maxsize=512)(_misplaced_placeholder)
