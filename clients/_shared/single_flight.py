"""One call for any number of threads that want the same value at the same time."""

from __future__ import annotations

import time
import traceback
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast
from uuid import UUID

from ..errors import ClientError
from .fork import on_fork
from .locks import OwnedLock

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = [
    "RaisedInOtherThread",
    "ReentrantCallError",
    "SingleFlight",
    "WaitTimeoutError",
    "fresh_copy",
]

_Key = TypeVar("_Key", bound="Hashable")
_Value = TypeVar("_Value")
_ErrorT = TypeVar("_ErrorT", bound="BaseException")

#: Values that nobody can change.
_PLAIN = (str, bytes, int, float, complex, Decimal, date, timedelta, UUID, Enum, PurePath)
#: How deep the arguments of an exception are copied; an ExceptionGroup holds others.
_MAX_DEPTH = 8


class WaitTimeoutError(Exception):
    """Another thread's call did not end in the time that the caller has."""


class ReentrantCallError(Exception):
    """The function that makes a value called for the same value: it would wait for itself."""


class RaisedInOtherThread(Exception):  # noqa: N818 - it is a cause, and no error of its own
    """What another thread raised, as text: its frames and their variables stay that thread's."""


class _Result(NamedTuple, Generic[_Value]):
    value: _Value


class _Failure(NamedTuple):
    error: Exception
    text: str


class _Call(Generic[_Value]):
    """A call under way; its thread holds the lock until the call has ended."""

    __slots__ = ("failure", "lock", "result", "thread")

    def __init__(self) -> None:
        self.lock = OwnedLock()
        self.lock.acquire()
        self.thread = get_ident()
        self.result: _Result[_Value] | None = None
        self.failure: _Failure | None = None


class SingleFlight(Generic[_Key, _Value]):
    """Runs a function once for all threads that want its value for the same key at the same time.

    Nothing is kept: a call that comes after the end of another one runs the function again. Where
    values are cached, let *make* look into the cache once more before it does anything: the call
    that it would have joined may just have ended.

    An interrupt at any moment, in the thread that runs the function or in one that waits, leaves
    no key locked. After ``fork()`` a child waits for no call of its parent.

    Args:
        shared: The failures that are the answer for everybody who waits. After any other, such as
            an interrupt of the thread that ran the function, one of the waiting threads runs it.
    """

    def __init__(self, shared: type[Exception] | tuple[type[Exception], ...] = ClientError) -> None:
        self._shared = shared
        self._start()
        on_fork(self._start)

    def _start(self) -> None:
        # Without a lock, which an interrupt could leave locked: each operation on it is atomic.
        self._calls: dict[_Key, _Call[_Value]] = {}

    def run(self, key: _Key, make: Callable[[], _Value], wait: float | None = None) -> _Value:
        """Return what *make* returns, in this thread or in the one that runs it for *key* already.

        Args:
            key: Which value; calls for different keys do not wait for each other.
            make: Makes the value.
            wait: The longest time to wait for another thread's call, in seconds; None is no limit.
                The own call of *make* is not limited.

        Returns:
            The value: the same object for all who waited for it.

        Raises:
            WaitTimeoutError: Another thread's call took longer than *wait*.
            ReentrantCallError: *make*, further up in this thread, made this call for the same key.
            Exception: What *make* raised; each thread that waited gets a copy of its own, which
                has neither the frames nor the causes of the original, but their text.
        """
        ends_at = None if wait is None else time.monotonic() + wait
        while True:
            call = self._lead_or_find(key, make)
            if call.result is None:
                if call.thread == get_ident():
                    raise ReentrantCallError
                _wait_for(call, -1 if ends_at is None else max(0.0, ends_at - time.monotonic()))
            if call.result is not None:
                return call.result.value
            if call.failure is not None:
                raise fresh_copy(call.failure.error) from RaisedInOtherThread(call.failure.text)
            # Its thread was interrupted, which is no answer for anybody else.
            self._end(key, call)

    def forget(self, key: _Key | None = None) -> None:
        """Let later callers start again, though a call is under way; who waits for it goes on.

        Args:
            key: Which value; every one when None.
        """
        if key is None:
            self._calls.clear()
        else:
            self._calls.pop(key, None)

    def _lead_or_find(self, key: _Key, make: Callable[[], _Value]) -> _Call[_Value]:
        """Return the call that another thread has under way, or run it here to its end."""
        own: _Call[_Value] = _Call()
        # The end stands twice: an interrupt may come at the first line of a `finally`.
        try:
            try:
                found = self._calls.setdefault(key, own)
                if found is own:
                    own.result = _Result(make())
            except self._shared as error:
                own.failure = _Failure(fresh_copy(error), _text_of(error))
                raise
            finally:
                self._end(key, own)
                own.lock.release()
        finally:
            self._end(key, own)
            try:
                own.lock.release()
            except RuntimeError:
                pass  # it was released above
        return found

    def _end(self, key: _Key, call: _Call[_Value]) -> None:
        # Between the two, forget() may let another call take its place: that one is not joined.
        if self._calls.get(key) is call:
            self._calls.pop(key, None)


def _wait_for(call: _Call[_Value], timeout: float) -> None:
    # The release stands twice here as well, and calls no function in Python.
    try:
        if not call.lock.acquire(timeout=timeout):
            raise WaitTimeoutError
        call.lock.release()
    finally:
        try:
            call.lock.release()
        except RuntimeError:
            pass  # it was not acquired, or has been released


def fresh_copy(error: _ErrorT) -> _ErrorT:
    """Return an exception of the same class and text that shares nothing with *error*.

    It has no traceback, cause or context. Of its arguments and attributes it keeps what is plain
    data: others, such as a response or a connection, may be in use or hold a secret.

    Args:
        error: The exception; it stays as it is.
    """
    return _fresh_copy(error, 0)


def _fresh_copy(error: _ErrorT, depth: int) -> _ErrorT:
    kept = {name: _plain(value, depth) for name, value in vars(error).items()}
    made: Any = None
    try:
        # As copy and pickle do it; some classes keep a part of their arguments elsewhere.
        reduced: Any = error.__reduce__()
        made = reduced[0](*_plain(reduced[1], depth))
    except Exception:  # noqa: BLE001, S110 - the class is anybody's
        pass
    if type(made) is not type(error) or made is error:
        made = _unconstructed(error, _plain(error.args, depth))
    made.__dict__.update(kept)
    made.__traceback__ = made.__cause__ = made.__context__ = None
    made.__suppress_context__ = True
    return cast("_ErrorT", made)


def _unconstructed(error: _ErrorT, args: tuple[Any, ...]) -> Any:
    """Return a copy of an exception whose constructor takes other arguments than it keeps."""
    kind = type(error)
    try:
        made = kind.__new__(kind, *args)
        made.args = args
        str(made)
    except Exception:  # noqa: BLE001 - the class is anybody's
        # The nearest class above it that takes a text: who catches that one catches this.
        return _of_a_base(error)
    return made


def _of_a_base(error: BaseException) -> BaseException:
    text = f"{type(error).__qualname__}: {error}"
    bases = (one for one in type(error).__mro__[1:] if issubclass(one, BaseException))
    return next(filter(None, (_made_of_text(base, text) for base in bases)))


def _made_of_text(kind: type[BaseException], text: str) -> BaseException | None:
    try:
        return kind(text)
    except Exception:  # noqa: BLE001 - the class is anybody's
        return None


def _plain(value: Any, depth: int) -> Any:
    """Return a copy of *value* that is plain data; None in place of anything else."""
    if isinstance(value, _PLAIN):
        return value
    if depth < _MAX_DEPTH:
        if isinstance(value, BaseException):
            return _fresh_copy(value, depth + 1)
        if type(value) in {list, tuple, set, frozenset}:
            return type(value)(_plain(one, depth + 1) for one in value)
        if type(value) is dict:
            return {_plain(k, depth + 1): _plain(v, depth + 1) for k, v in value.items()}
    return None


def _text_of(error: BaseException) -> str:
    """Return *error* and its causes as text. What it was handling belongs to its thread alone."""
    lines: list[str] = []
    one: BaseException | None = error
    while one is not None and len(lines) < _MAX_DEPTH:
        lines.append("".join(traceback.format_exception_only(one)).strip())
        one = one.__cause__
    return "\ncaused by ".join(lines)
