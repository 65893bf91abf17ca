"""The current user, carried by a context variable.

``PostgresClient`` reads it for every call that is given no ``user_id``. A context variable
follows the thread (and the asyncio task) that set it: two requests never see each other's user.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from uuid import UUID

from .errors import RlsContextError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "clear_current_user_id",
    "get_current_user_id",
    "parse_user_id",
    "set_current_user_id",
    "user_context",
]

_current_user_id: ContextVar[UUID | None] = ContextVar("current_user_id", default=None)


def parse_user_id(user_id: object) -> UUID:
    """Return *user_id* as a UUID.

    Args:
        user_id: A UUID, or its text.

    Returns:
        The UUID.

    Raises:
        RlsContextError: *user_id* is neither.
    """
    if type(user_id) is UUID:
        return user_id
    if isinstance(user_id, UUID):
        # A subclass may have another text, and the text is what goes into SQL.
        return UUID(int=user_id.int)
    if isinstance(user_id, str):
        try:
            return UUID(user_id)
        except ValueError:
            pass

    raise RlsContextError(
        f"user id {_shorten(user_id)} is not a UUID (type {type(user_id).__name__}): "
        "pass a uuid.UUID or its text"
    ) from None


def get_current_user_id() -> UUID:
    """Return the current user's id.

    Returns:
        The UUID that ``set_current_user_id`` or ``user_context`` put there.

    Raises:
        RlsContextError: There is none. Threads of a pool start without one; the message says so.
    """
    user_id = _current_user_id.get()
    if user_id is None:
        raise RlsContextError(
            "no current user: call set_current_user_id() or enter user_context() first, or pass "
            "user_id=. A thread pool's threads do not inherit the caller's user: submit "
            "contextvars.copy_context().run, or enter user_context() inside the task"
        )
    return user_id


def set_current_user_id(user_id: UUID | str) -> None:
    """Make *user_id* the current user of this thread or task.

    Args:
        user_id: A UUID, or its text.

    Raises:
        RlsContextError: *user_id* is neither; the current user stays as it was.
    """
    _current_user_id.set(parse_user_id(user_id))


def clear_current_user_id() -> None:
    """Leave this thread or task without a current user."""
    _current_user_id.set(None)


@contextmanager
def user_context(user_id: UUID | str) -> Iterator[UUID]:
    """Make *user_id* the current user inside a ``with`` block, and restore the former after it.

    Args:
        user_id: A UUID, or its text.

    Yields:
        The UUID.

    Raises:
        RlsContextError: *user_id* is neither.
    """
    parsed = parse_user_id(user_id)
    token = _current_user_id.set(parsed)
    try:
        yield parsed
    finally:
        _current_user_id.reset(token)


def _shorten(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "of thousands of digits"  # which Python refuses to print
    limit = 60
    return text if len(text) <= limit else f"{text[:limit]}..."
