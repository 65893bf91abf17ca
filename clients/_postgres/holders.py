"""Who holds the pool's sessions: found out for each checkout, told when the pool is exhausted."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Holder", "calling_place", "describe_holders"]

_PACKAGE = str(Path(__file__).parent)


class Holder(NamedTuple):
    """Which thread has held a session since when, and the line that took it."""

    thread_id: int
    since: float
    place: str


def calling_place() -> str:
    """Return file and line of the caller outside this package."""
    frame = sys._getframe(2)  # noqa: SLF001 - the documented way to a caller without its cost
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_PACKAGE) or "contextlib" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def describe_holders(holders: Iterable[Holder]) -> str:
    """Name them, the oldest first."""
    now = time.monotonic()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "; ".join(
        f"{names.get(thread_id, f'ended thread {thread_id}')} for {now - since:.2f} s at {place}"
        for thread_id, since, place in sorted(holders, key=lambda holder: holder.since)
    )
