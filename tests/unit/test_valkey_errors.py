"""The mapping from the driver's errors to ours is total, and shows nothing secret."""

from __future__ import annotations

import inspect
import pickle
import traceback
from typing import Any

import pytest
import redis.exceptions
import redis.sentinel
from redis._parsers.base import BaseParser

from clients._valkey.errors import PoolExhausted, ReplyLost, UnexpectedReply, valkey_error
from clients._valkey.settings import Limits
from clients.errors import ValkeyConfigurationError, ValkeyConnectionError, ValkeyError

LIMITS = Limits(2.0, 5.0, 50)
DRIVER_CLASSES = [
    found
    for module in (redis.exceptions, redis.sentinel)
    for found in vars(module).values()
    if inspect.isclass(found) and issubclass(found, Exception)
]


def _made(kind: type[Exception]) -> Exception:
    if issubclass(kind, redis.exceptions.AskError):
        return kind("1 127.0.0.1:1")
    return kind("the driver's words")


@pytest.mark.parametrize("kind", DRIVER_CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_of_the_driver_is_caught_and_mapped(kind: type[Exception]) -> None:
    """Whatever class redis-py has, the message names the key."""
    error = _made(kind)
    ours = valkey_error(error, "GET 'k' on h", limits=LIMITS)

    assert isinstance(ours, ValkeyError)
    assert str(ours).startswith("GET 'k' on h failed: ")
    assert ours.__cause__ is error


def test_the_walk_over_the_driver_finds_its_classes() -> None:
    """The list above is not empty by accident, and has the classes outside redis-py's tree."""
    names = {kind.__name__ for kind in DRIVER_CLASSES}

    assert {"RedisError", "RedisClusterException", "ChildDeadlockedError"} <= names
    assert len(names) > 25


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ConnectionError("refused"),
        redis.exceptions.TimeoutError("slow"),
        redis.exceptions.AuthenticationError("x", status_code="NOAUTH"),
        redis.exceptions.BusyLoadingError("x", status_code="LOADING"),
        redis.exceptions.InvalidResponse("x"),
        PoolExhausted("all in use"),
        OSError(5, "input/output"),
        ReplyLost(redis.exceptions.TimeoutError("slow"), sent=True, maybe_applied=True),
        UnexpectedReply("a text", 5),
    ],
    ids=repr,
)
def test_no_working_connection_is_a_connection_error(error: Exception) -> None:
    """Whatever keeps us from a working connection is a ValkeyConnectionError."""
    assert isinstance(valkey_error(error, "x", limits=LIMITS), ValkeyConnectionError)


@pytest.mark.parametrize("word", ["WRONGTYPE", "OOM", "READONLY", "BUSY", "NOREPLICAS", "MISCONF"])
def test_the_servers_word_is_the_code_and_has_a_mend(word: str) -> None:
    """redis-py leaves some words in the text and cuts off others; ours has them all."""
    parser: Any = BaseParser  # untyped
    ours = valkey_error(parser.parse_error(f"{word} text."), "x", limits=LIMITS)

    assert ours.code == word
    assert str(ours).startswith(f"x failed: {word} text (")


SLOW = redis.exceptions.TimeoutError("slow")
LOADING = redis.exceptions.BusyLoadingError("x", status_code="LOADING")


@pytest.mark.parametrize(
    ("error", "maybe"),
    [
        (ReplyLost(SLOW, sent=True, maybe_applied=True), True),
        (ReplyLost(SLOW, sent=True, maybe_applied=False), False),
        (ReplyLost(LOADING, sent=True, maybe_applied=False), False),
        (redis.exceptions.ConnectionError("refused"), False),
        (redis.exceptions.ResponseError("WRONGTYPE x"), False),
    ],
)
def test_only_a_lost_reply_to_a_change_is_maybe_applied(
    error: Exception,
    maybe: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """A refusal, a failed connection and a lost read have changed nothing."""
    ours = valkey_error(error, "INCR 'k'", limits=LIMITS)

    assert ours.maybe_applied is maybe
    assert ("may have been applied" in str(ours)) is maybe


def test_values_that_the_server_quotes_do_not_show() -> None:
    """An unknown command's reply quotes its arguments; the message and its cause do not."""
    quoted = redis.exceptions.ResponseError(
        "unknown command 'GETEX', with args beginning with: 'k' 'canary' "
    )
    ours = valkey_error(quoted, "GETEX 'k'", limits=LIMITS)

    assert "canary" not in "".join(traceback.format_exception(ours))
    assert "unknown command 'GETEX'" in str(ours)


def test_passwords_do_not_show() -> None:
    """Whatever the driver says, the target's secrets are masked."""
    error = redis.exceptions.ConnectionError("canary in the text")

    assert "canary" not in str(valkey_error(error, "x", limits=LIMITS, secrets=("canary",)))


@pytest.mark.parametrize(
    "kind", [ValkeyError, ValkeyConnectionError, ValkeyConfigurationError], ids=lambda k: k.__name__
)
def test_errors_survive_a_pickle(kind: type[ValkeyError]) -> None:
    """An error that crosses a process boundary keeps its message and attributes."""
    copy = pickle.loads(pickle.dumps(kind("m", code="OOM", maybe_applied=True)))  # noqa: S301 - our own

    assert (type(copy), str(copy), copy.code, copy.maybe_applied) == (kind, "m", "OOM", True)
