"""Who holds a session: a thread, and within it a task of asyncio or Trio, or a greenlet.

Tasks that share a thread take turns at every ``await``: if they shared a transaction, one of them
would undo or commit what another has written. So a block belongs to the task that entered it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from asyncio import _get_running_loop
from contextvars import ContextVar
from typing import Any

__all__ = ["Owner", "calling_owner", "current_owner"]

# The owners of the blocks that are open in this context, the innermost last.
_in_blocks: ContextVar[tuple[Owner, ...]] = ContextVar("in_blocks", default=())


class _ThreadMark:
    """Tells threads apart; the number of an ended thread is given to another one."""

    __slots__ = ("_ident", "_thread")

    def __init__(self) -> None:
        self._thread = weakref.ref(threading.current_thread())
        self._ident = threading.get_ident()

    def __str__(self) -> str:
        thread = self._thread()
        if thread is None or not thread.is_alive():
            return f"ended thread {self._ident}"
        return thread.name


class Owner:
    """Who holds a session, as it was when the session was taken.

    Args:
        thread: The mark of its thread.
        task: Its task or greenlet; None outside of any.
    """

    __slots__ = ("_in_block", "_task", "_thread", "has_ended")

    def __init__(self, thread: _ThreadMark, task: Any) -> None:
        self._thread = thread
        # Weak: a task whose coroutine has the block in a frame would keep itself alive.
        self._task: weakref.ref[Any] | None = None if task is None else weakref.ref(task)
        self._in_block = False
        #: Whether its block is over.
        self.has_ended = False

    def __str__(self) -> str:
        if self._task is None:
            return str(self._thread)
        task = self._task()
        if isinstance(task, asyncio.Task):
            return f"task {task.get_name()} of {self._thread}"
        if task is not None and type(task).__module__.startswith("trio."):
            return f"task {task.name} of {self._thread}"
        return f"{'an ended task' if task is None else 'a greenlet'} of {self._thread}"

    def is_current(self) -> bool:
        """Return whether the caller runs in the same thread, and in the same task or greenlet."""
        if self._thread is not _here.mark:
            return False
        task = _current_task()
        if self._task is None:
            return task is None
        return task is not None and self._task() is task

    def begin_block(self) -> None:
        """Note that a block of this owner is open in the current context."""
        self._in_block = True
        others = _in_blocks.get()
        _in_blocks.set((*_not_ended(others), self) if others else (self,))

    def end_block(self) -> None:
        """Note that the block has ended, in whichever context and thread."""
        self.has_ended = True
        others = _in_blocks.get()
        _in_blocks.set(() if others == (self,) else _not_ended(others))

    def blocks_caller(self) -> bool:
        """Return whether what it holds cannot come back while the caller waits.

        So it is when the caller's thread is in the middle of the call or the block that holds it,
        or when another task of that thread holds it: the thread that waits runs no other task. It
        is not so for a thread that entered a block for somebody else and went back to its pool,
        as web frameworks enter their dependencies: that block is none of this context.
        """
        if self._thread is not _here.mark:
            return False
        return self._task is not None or not self._in_block or self in _in_blocks.get()


class _Here(threading.local):
    """The mark of the current thread, and the owner of its calls outside of any task."""

    def __init__(self) -> None:
        self.mark = _ThreadMark()
        self.caller = Owner(self.mark, None)


_here = _Here()


def _not_ended(owners: tuple[Owner, ...]) -> tuple[Owner, ...]:
    return tuple(one for one in owners if not one.has_ended)


def current_owner() -> Owner:
    """Return the thread, and the task or greenlet, that calls: a new one for each block."""
    return Owner(_here.mark, _current_task())


def calling_owner() -> Owner:
    """Return the same for a call that opens no block."""
    task = _current_task()
    return _here.caller if task is None else Owner(_here.mark, task)


def _current_task() -> Any:
    # Before asyncio: Trio can be a guest of its loop. Imported in part, it lacks the functions.
    trio = sys.modules.get("trio.lowlevel")
    if trio is not None and getattr(trio, "in_trio_task", bool)():
        return trio.current_task()
    # Not current_task() alone: without a loop it raises, which costs ten times as much.
    if _get_running_loop() is not None:
        return asyncio.current_task()
    greenlet = sys.modules.get("greenlet")
    if greenlet is None:
        return None
    current = greenlet.getcurrent()
    # The main one is the thread itself.
    return None if current.parent is None else current
