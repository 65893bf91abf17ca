"""The shapes of replies: any other is refused, and the connection that it came on is closed.

Where a server, or a proxy in front of it, answers something that the command does not have, the
connection may be out of step, and what comes next may be another caller's reply.
"""

from __future__ import annotations

from typing import Any

from .errors import UnexpectedReply

__all__ = [
    "counter",
    "flag",
    "identity",
    "integer",
    "integers",
    "nothing",
    "pong",
    "stored",
    "text",
    "text_or_none",
    "texts",
    "texts_or_none",
]


def identity(reply: Any) -> Any:
    """Return the reply as it is."""
    return reply


def text_or_none(reply: Any) -> str | None:
    """Take a bulk string, or none."""
    if reply is None or type(reply) is str:
        return reply
    raise UnexpectedReply("a text or nothing", reply)


def text(reply: Any) -> str:
    """Take a string."""
    if type(reply) is str:
        return reply
    raise UnexpectedReply("a text", reply)


def integer(reply: Any) -> int:
    """Take an integer."""
    if type(reply) is int:
        return reply
    raise UnexpectedReply("a whole number", reply)


def counter(reply: Any) -> int:
    """Take an integer, or one that is beyond Lua's exact numbers, as text."""
    if type(reply) is int:
        return reply
    try:
        return int(text(reply))
    except ValueError:
        raise UnexpectedReply("a whole number", reply) from None


def flag(reply: Any) -> bool:
    """Take 0 or 1."""
    if type(reply) is int and 0 <= reply <= 1:
        return reply == 1
    raise UnexpectedReply("0 or 1", reply)


def stored(reply: Any) -> bool:
    """Take what SET answers: OK, or nothing where a condition was not met."""
    if reply is None or reply == "OK":
        return reply is not None
    raise UnexpectedReply("OK or nothing", reply)


def nothing(reply: Any) -> None:
    """Take OK."""
    if reply != "OK":
        raise UnexpectedReply("OK", reply)


def pong(reply: Any) -> None:
    """Take what PING answers."""
    if reply != "PONG":
        raise UnexpectedReply("PONG", reply)


def integers(reply: Any, count: int) -> list[int]:
    """Take an array of *count* integers."""
    if type(reply) is list and len(reply) == count and all(type(one) is int for one in reply):
        return reply
    raise UnexpectedReply(f"{count} whole numbers", reply)


def texts(reply: Any, count: int) -> list[str]:
    """Take an array of *count* strings."""
    if type(reply) is list and len(reply) == count and all(type(one) is str for one in reply):
        return reply
    raise UnexpectedReply(f"{count} texts", reply)


def texts_or_none(reply: Any, count: int) -> list[str | None]:
    """Take an array of *count* bulk strings, or none in their places."""
    if (
        type(reply) is list
        and len(reply) == count
        and all(one is None or type(one) is str for one in reply)
    ):
        return reply
    raise UnexpectedReply(f"{count} texts", reply)
