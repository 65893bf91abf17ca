"""Whose rows they are: the current user, carried by a context variable, and ``RlsSetting``.

``PostgresClient`` reads it for every call that is given no ``user_id``. A context variable
follows the thread (and the asyncio task) that set it: two requests never see each other's user.

What each sees of ``with user_context(ada)``:

========================================  ==========================================================
who                                       the current user
========================================  ==========================================================
the block, and what it calls              Ada; after the block the one before it
a generator or async generator that       its own code is Ada, wherever and by whomever it is
entered it                                resumed; its consumer, and who closes it, never
a ``@contextmanager`` or                  Ada in the ``with`` body, and the one before after it
``@asynccontextmanager`` that entered it
a pytest fixture or hook wrapper          Ada in the test, until the fixture's teardown
a FastAPI dependency, ``async def``       Ada in the endpoint, sync or async
a FastAPI dependency, ``def``             nobody in the endpoint: FastAPI runs it in another context
ASGI middleware around ``await app()``    Ada in endpoint, background tasks and streamed bodies
``BaseHTTPMiddleware`` around             Ada in the endpoint; nobody in what is sent after
``await call_next()``                     ``call_next()`` has returned, such as a streamed body
a streamed body's generator               as any generator: enter it there
``asyncio.create_task``, ``gather``,      Ada while the block is open, then nobody
``asyncio.to_thread``
``copy_context().run``, in any thread     likewise
``ThreadPoolExecutor.submit(work)``,      nobody; also on a free-threaded Python 3.14, where a
``threading.Thread(target=work)``         thread begins with a copy of its starter's context: a
                                          pool's thread would be whoever had it started
========================================  ==========================================================

A thread or task that runs with a copy of a context in which a generator has entered
``user_context`` cannot tell whether the generator or its consumer has started it. It sees Ada
when the consumer has no user and the generator waits for something; whoever both of them are when
they are the same; and else nobody.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from contextlib import ContextDecorator, aclosing, closing
from contextvars import ContextVar, Token
from copy import deepcopy
from functools import partial, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from opcode import opmap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from ._postgres.rls_setting import RlsSetting, parse_user_id
from ._shared.generators import innermost_generator
from .errors import RlsContextError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType, TracebackType
    from typing import Self
    from uuid import UUID

__all__ = [
    "RlsSetting",
    "clear_current_user_id",
    "current_identity",
    "get_current_user_id",
    "parse_user_id",
    "set_current_user_id",
    "user_context",
]

_FunctionT = TypeVar("_FunctionT", bound="Callable[..., Any]")

# What the argument of a RESUME instruction says: after which kind of stop it stands.
_REASON, _AWAIT = 0b11, 3


class _Entry(NamedTuple):
    """What a context variable holds: values, and the scope that they end with."""

    values: Mapping[str, object]
    scope: _Scope | None
    #: The thread that has set it.
    thread: int


class _Scope:
    """From ``user_context.__enter__`` to its end, however it ends."""

    __slots__ = ("__weakref__", "anchor", "ended", "frame", "latest", "outer", "token")

    def __init__(self, values: Mapping[str, object]) -> None:
        self.latest = _Entry(values, self, threading.get_ident())
        self.ended = False
        #: Held by the ``with`` statement alone, which lets go of it whatever interrupts its entry
        #: or its exit. None before the entry.
        self.anchor: weakref.ref[object] | None = None
        #: Of the generator to whose code it is bound.
        self.frame: FrameType | None = None
        #: What the same generator had entered before.
        self.outer: _Scope | None = None
        #: Works in the context that it was made in, and not in copies of it.
        self.token: Token[_Entry | None] | None = None

    @property
    def is_open(self) -> bool:
        return not self.ended and self.anchor is not None and self.anchor() is not None

    def take_off(self) -> bool:
        """Bring the entry before it back; return False in a copy of the context it is from."""
        if self.token is None:
            return False
        try:
            _entries.reset(self.token)
        except (ValueError, RuntimeError):  # of another context; used in the original of a copy
            return False
        return True

    def put_on(self) -> None:
        self.token = _entries.set(self.latest)


_entries: ContextVar[_Entry | None] = ContextVar("current_identity", default=None)

# Set for a moment, to see in which context.
_here: ContextVar[None] = ContextVar("here", default=None)

# https://docs.python.org/3.14/library/sys.html#sys.flags.thread_inherit_context
_THREADS_INHERIT = bool(getattr(sys.flags, "thread_inherit_context", False))

# The innermost scope of each generator that has one, by the frame's id.
_generators: weakref.WeakValueDictionary[int, _Scope] = weakref.WeakValueDictionary()


def current_identity() -> dict[str, object]:
    """Return the values that ``user_context`` and ``set_current_user_id`` have set, by name.

    Returns:
        A copy; the current user's id is under ``user_id``. Empty when there is nobody.
    """
    return {name: _own(value) for name, value in _current().items()}


def get_current_user_id() -> UUID:
    """Return the current user's id.

    Returns:
        The UUID that ``set_current_user_id`` or ``user_context`` put there.

    Raises:
        RlsContextError: There is none, or it is no UUID (``current_identity()`` has it then).
            Threads of a pool start without one; the message says so.
    """
    user_id = _current().get("user_id")
    if user_id is None:
        raise RlsContextError(
            "no current user: call set_current_user_id() or enter user_context() first, or pass "
            "user_id=. A thread pool's threads do not inherit the caller's user: submit "
            "contextvars.copy_context().run, or enter user_context() inside the task. What was "
            "set in a user_context() ends with it, in every thread and task"
        )
    return parse_user_id(user_id)


def set_current_user_id(user_id: UUID | str) -> None:
    """Make *user_id* the current user of this thread or task.

    Inside a ``user_context`` it ends with that.

    Args:
        user_id: A UUID, or its text.

    Raises:
        RlsContextError: *user_id* is neither; the current user stays as it was.
    """
    _replace({**_current(), "user_id": parse_user_id(user_id)})


def clear_current_user_id() -> None:
    """Leave this thread or task without a current user; inside a ``user_context``, to its end."""
    _replace({})


class _Exit:
    """``__exit__`` of a ``user_context``: what it returns is what the scope lives with.

    An interrupt may come at the entry of any function in Python. Then nothing of the exit has run,
    but the ``with`` statement lets go of what it has got from here, and that ends the scope.
    """

    def __get__(self, handle: user_context | None, _: object = None) -> Callable[..., None]:
        if handle is None:
            return self
        leave = partial(_leave, handle._scope)  # noqa: SLF001 - of the same module
        handle._leave = weakref.ref(leave)  # noqa: SLF001
        return leave

    def __call__(self, handle: user_context, *exc_info: object) -> None:
        # contextlib.ExitStack takes it from the class, and holds the object itself.
        _leave(handle._scope, *exc_info)  # noqa: SLF001


class user_context(ContextDecorator):  # noqa: N801 - it is used as a function
    """Make *user_id* the current user inside a ``with`` block, and restore the former after it.

    Where rows belong to more than a user, or to something else, the other values are given by name:
    ``user_context("auth0|abc", tenant_id=7)``. Values that it is not given stay those of the block
    around it. Whether they fit is for each client to say, by the types of its ``identity``; a name
    that a client does not know is ignored there, since another client may know it.

    What has ended is nobody: neither a thread or task that runs with a copy of the block's context,
    nor a block that was left by an interrupt, in another order or in another thread, goes on as
    that user. Entered by a generator, it holds for the generator's own code, and not for whoever
    reads from the generator; the table in ``clients.identity`` has it all. It decorates a function
    as well, of any kind: coroutines and generators are that user while their own code runs.

    Args:
        user_id: The value of that name: a UUID or its text by default.
        **values: Other values by name.

    Raises:
        RlsContextError: No value is given, or one is None, empty, or has a NUL character; or the
            block is entered a second time.
    """

    def __init__(self, user_id: object = None, /, **values: object) -> None:
        if user_id is not None:
            if "user_id" in values:
                raise RlsContextError("user_context() was given two values for user_id")
            values["user_id"] = user_id
        if not values:
            raise RlsContextError(
                "user_context() was given nobody, and there is no default: pass a user id, or "
                "other values by name"
            )
        self._given = {name: _checked(name, value) for name, value in values.items()}
        self._scope = _Scope(self._given)
        self._leave: weakref.ref[object] | None = None

    def __enter__(self) -> Any:
        scope = self._scope
        if scope.anchor is not None:
            raise RlsContextError("this user_context() was entered before: make another one")
        former = _entries.get()
        leave = self._leave
        scope.anchor = weakref.ref(self) if leave is None or leave() is None else leave
        scope.latest = _Entry({**_current(), **self._given}, scope, threading.get_ident())
        try:
            scope.frame = innermost_generator()
            scope.put_on()
            if scope.frame is not None:
                scope.outer = _scope_of(scope.frame)
                _generators[id(scope.frame)] = scope
        except BaseException:
            scope.ended = True
            scope.frame = None
            if _entries.get() is scope.latest:
                _entries.set(former)
            raise
        user_id = self._given.get("user_id")
        return _uuid_of(user_id) or user_id

    if TYPE_CHECKING:

        def __exit__(
            self,
            exc_type: type[BaseException] | None,
            exc: BaseException | None,
            traceback: TracebackType | None,
        ) -> None: ...

    else:
        __exit__ = _Exit()

    def __call__(self, func: _FunctionT) -> _FunctionT:
        """Return a function that runs *func* inside a block of its own for each call.

        Args:
            func: Any function, a coroutine function and a generator function included.
        """
        # ContextDecorator would leave the block before the first line of these has run.
        if iscoroutinefunction(func):
            return cast("_FunctionT", self._around_coroutine(func))
        if isasyncgenfunction(func):
            return cast("_FunctionT", self._around_async_generator(func))
        if isgeneratorfunction(func):
            return cast("_FunctionT", self._around_generator(func))
        return super().__call__(func)

    def _around_coroutine(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(func)
        async def inside(*args: Any, **kwargs: Any) -> Any:
            with self._recreate_cm():
                return await func(*args, **kwargs)

        return inside

    def _around_generator(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(func)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self._recreate_cm(), closing(func(*args, **kwargs)) as generator:
                # Not ``yield from``: while that is closed, nothing leads from the function's code
                # to this scope.
                resume: Callable[[], Any] = partial(next, generator)
                while True:
                    try:
                        value = resume()
                    except StopIteration as end:
                        return end.value
                    try:
                        resume = partial(generator.send, (yield value))
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown in, and passed on
                        resume = partial(generator.throw, error)

        return inside

    def _around_async_generator(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(func)
        async def inside(*args: Any, **kwargs: Any) -> Any:
            with self._recreate_cm():
                async with aclosing(func(*args, **kwargs)) as generator:
                    resume: Callable[[], Any] = partial(anext, generator)
                    while True:
                        try:
                            value = await resume()
                        except StopAsyncIteration:
                            return
                        try:
                            resume = partial(generator.asend, (yield value))
                        except GeneratorExit:
                            raise
                        except BaseException as error:  # noqa: BLE001 - thrown in, and passed on
                            resume = partial(generator.athrow, error)

        return inside

    def _recreate_cm(self) -> Self:
        # ContextDecorator: another one for each call.
        return type(self)(**self._given)


def _checked(name: str, value: object) -> object:
    """Refuse what is no value of any client's identity, and return what is kept of the others."""
    if value is None or (isinstance(value, str | bytes | dict) and not value):
        raise RlsContextError(f"user_context() was given no {name}: it is empty")
    if isinstance(value, str) and "\0" in value:
        raise RlsContextError(f"user_context() was given a {name} with a NUL character")
    found = _uuid_of(value) if name == "user_id" else None
    # A text that is only similar to a UUID's may be another user, where ids are texts.
    if found is not None and (not isinstance(value, str) or str(found) == value):
        return found
    return _own(value)


def _uuid_of(value: object) -> UUID | None:
    try:
        return parse_user_id(value)
    except RlsContextError:
        return None


def _own(value: object) -> object:
    """Return a copy of what the caller could change later: the claims of a token."""
    if not isinstance(value, dict | list):
        return value
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001 - of whatever is in it
        raise RlsContextError("an identity was given values that cannot be copied") from None


def _leave(scope: _Scope, *_: object) -> None:
    scope.ended = True
    entry = _entries.get()
    if entry is not None and entry.scope is scope and scope.take_off():
        # It leads to its context, which has held the entry: a cycle for the collector.
        scope.token = None
    if scope.frame is not None:
        key = id(scope.frame)
        if _generators.get(key) is scope:
            if scope.outer is None:
                _generators.pop(key, None)
            else:
                _generators[key] = scope.outer
        scope.frame = None


def _current() -> Mapping[str, object]:
    if _generators and (bound := _scope_on_the_stack()) is not None:
        return bound.latest.values
    entry = _entries.get()
    if entry is None or (_THREADS_INHERIT and _is_inherited(entry)):
        return {}
    scope = entry.scope
    if scope is None or (scope.frame is None and scope.is_open):
        return entry.values
    skipped: list[_Entry] = []
    try:
        entry = _take_off_others(skipped)
        return {} if entry is None else _as_copied(entry)
    finally:
        _put_on_again(skipped)


def _replace(values: Mapping[str, object]) -> None:
    if _generators and (bound := _scope_on_the_stack()) is not None:
        entry = _entries.get()
        bound.latest = _Entry(values, bound, threading.get_ident())
        if entry is not None and entry.scope is bound:
            _entries.set(bound.latest)
        return
    skipped: list[_Entry] = []
    try:
        entry = _take_off_others(skipped)
        scope = None if entry is None else entry.scope
        if scope is None or not scope.is_open or not scope.take_off():
            _entries.set(_Entry(values, None, threading.get_ident()))
            return
        try:
            scope.latest = _Entry(values, scope, threading.get_ident())
        finally:
            scope.put_on()
    finally:
        _put_on_again(skipped)


def _take_off_others(skipped: list[_Entry]) -> _Entry | None:
    """Leave on top what this code sees: take off what has ended, and other code's generators'.

    Args:
        skipped: Gets the entries of generators that are only suspended.

    Returns:
        The entry on top; of a scope that is open, or of a context that this one is a copy of.
    """
    while (entry := _entries.get()) is not None:
        scope = entry.scope
        if scope is None or (scope.frame is None and scope.is_open):
            break
        if not scope.take_off():
            break
        if scope.is_open:
            skipped.append(entry)
    return entry


def _put_on_again(skipped: list[_Entry]) -> None:
    for entry in reversed(skipped):
        if entry.scope is not None:
            entry.scope.put_on()


def _as_copied(entry: _Entry) -> Mapping[str, object]:
    """Return the values of an entry that may have come here with a copy of its context."""
    scope = entry.scope
    if scope is None:
        return entry.values
    if not scope.is_open:
        return {}
    frame = scope.frame
    if frame is None:
        return entry.values
    # The generator may have copied the context, or its consumer.
    before: object = entry
    while isinstance(before, _Entry) and before.scope is not None and before.scope.frame is frame:
        before = before.scope.token.old_value if before.scope.token is not None else None
    outside = _as_copied(before) if isinstance(before, _Entry) else {}
    if outside == entry.values or (not outside and _is_waiting(frame)):
        return entry.values
    return {}


def _is_inherited(entry: _Entry) -> bool:
    """Return True when an entry is here for no other reason than who has started this thread."""
    own = getattr(threading.current_thread(), "_context", None)
    if entry.thread == threading.get_ident() or own is None:
        return False
    # A token knows its context, and tells the collector. Work that runs with a copy of a context
    # runs in another one than its thread began with.
    token = _here.set(None)
    try:
        return any(one is own for one in gc.get_referents(token))
    finally:
        _here.reset(token)


def _scope_of(frame: FrameType) -> _Scope | None:
    scope = _generators.get(id(frame))
    while scope is not None and not (scope.frame is frame and scope.is_open):
        scope = scope.outer
    return scope


def _scope_on_the_stack() -> _Scope | None:
    """Return the innermost scope of the generators whose code is running in this thread."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller
    while frame is not None:
        if (scope := _scope_of(frame)) is not None:
            return scope
        frame = frame.f_back
    return None


def _is_waiting(frame: FrameType) -> bool:
    """Return True when a generator is at work, or waits for something, and has not yielded.

    The instruction at which it goes on says what it had stopped for.
    https://docs.python.org/3/library/dis.html#opcode-RESUME
    """
    if frame.f_back is not None:
        return True
    code, last = frame.f_code.co_code, frame.f_lasti
    for at in (last, last + 2):
        if 0 <= at < len(code) - 1 and code[at] == opmap["RESUME"]:
            return code[at + 1] & _REASON == _AWAIT
    return False
