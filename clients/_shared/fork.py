"""What a forked child has to do before its first call: one registry for all of the clients.

A child has only the thread that forked. Locks that other threads held, and sockets and credentials
that are the parent's, must be replaced before anything in the child uses them.
"""

from __future__ import annotations

import inspect
import itertools
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["on_fork"]

_numbers = itertools.count()
#: What to run, in the order in which it was registered. An entry returns None once its object is
#: gone.
_registered: dict[int, Callable[[], Callable[[], object] | None]] = {}


def on_fork(callback: Callable[[], object]) -> None:
    """Have *callback* run in every forked child, before ``os.fork()`` returns there.

    Callbacks run in the order in which they were registered. Register an object at the end of its
    constructor: then what it is made of has been renewed when its own callback runs. A callback
    must not block. One that raises keeps none of the others from running.

    Args:
        callback: A method, which is forgotten with its object, or a function of a module.
    """
    number = next(_numbers)
    if inspect.ismethod(callback):
        registered, method = _registered, callback.__func__

        def forget(_: object) -> None:
            # Atomic, for the collector may run it at any moment; nor does it look a global up,
            # for at the interpreter's end there are none. WeakMethod would fail there.
            registered.pop(number, None)

        owner = weakref.ref(callback.__self__, forget)

        def bound() -> Callable[[], object] | None:
            one = owner()
            return None if one is None else partial(method, one)

        _registered[number] = bound
    else:
        _registered[number] = lambda: callback


def _run_in_child() -> None:
    failures: list[Exception] = []
    for reference in list(_registered.values()):
        callback = reference()
        if callback is not None:
            _run(callback, failures)
    if failures:
        # Python reports it on standard error, and the child goes on.
        raise ExceptionGroup("callbacks of on_fork() failed", failures)


def _run(callback: Callable[[], Any], failures: list[Exception]) -> None:
    try:
        callback()
    except Exception as error:  # noqa: BLE001 - the others must run
        failures.append(error)


os.register_at_fork(after_in_child=_run_in_child)
