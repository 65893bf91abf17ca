"""Tell an exception that interrupted a call from a failure of the call itself."""

from __future__ import annotations

import signal
import sys
import traceback
from functools import partial
from types import CodeType
from typing import Any

__all__ = ["comes_from_signal_handler", "forget_locals", "interrupt_behind", "is_interrupt"]

_PACKAGE = __name__.partition("._shared")[0]
#: Where a call waits, beside this package and the driver.
_WAITING = frozenset({"select", "selectors", "socket", "ssl", "threading"})


def is_interrupt(error: BaseException, *drivers: str) -> bool:
    """Return whether *error* was raised into a call from outside.

    That is every exception that is no ``Exception`` (such as ``KeyboardInterrupt``), whatever a
    signal handler raised (such as the soft time limit of a task queue), and an exception of
    somebody else's class that begins where nobody raises one: another thread has set it
    (``PyThreadState_SetAsyncExc``).

    Args:
        error: What was caught.
        drivers: The packages that the call runs in, beside this one and the standard library.
    """
    if not isinstance(error, Exception):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__")) for frame in frames]
    foreign = [
        frame.f_code
        for frame, name in zip(frames, names, strict=True)
        if not _is_within(name, drivers) and name not in _WAITING
    ]
    if foreign:
        return comes_from_signal_handler(error)
    home = type(error).__module__
    is_known = _is_within(home, drivers) or home.partition(".")[0] in sys.stdlib_module_names
    return bool(frames) and not is_known


def comes_from_signal_handler(error: BaseException) -> bool:
    """Return whether a signal handler raised *error*, such as the soft time limit of a task queue.

    Args:
        error: What was caught.
    """
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def interrupt_behind(
    error: BaseException, handled: BaseException | None, *drivers: str
) -> BaseException | None:
    """Return the interrupt that came before a driver's own cleaning up failed with *error*.

    Args:
        error: What was caught.
        handled: What the caller was handling when the call began: it belongs to no call of ours.
        drivers: As for ``is_interrupt``.
    """
    one = error.__context__
    while one is not None and one is not handled:
        if is_interrupt(one, *drivers):
            return one
        one = one.__context__
    return None


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of each frame that *error* and its causes have left.

    Error reporters collect them, and credentials are among them. Frames that are still running
    keep theirs.
    """
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            pending += [one.__cause__, one.__context__]


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - its code, not whether
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _is_within(module: str, drivers: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in (_PACKAGE, *drivers))
