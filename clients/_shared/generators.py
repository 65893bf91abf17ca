"""Tell the code of a generator from its consumer's, which runs in the same thread or task."""

from __future__ import annotations

import sys
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["innermost_generator", "is_running"]

# Who resumes a generator in order to go on with a block of its own while the generator waits.
# All of them resume generators in their own code; whoever else does so consumes what it yields.
_DRIVERS = frozenset({"contextlib", "_pytest.fixtures", "pluggy._callers"})
_ASYNC_DRIVERS = frozenset(
    {
        "contextlib",
        "pytest_asyncio.plugin",
        "anyio._backends._asyncio",
        "anyio._backends._trio",
    }
)


def innermost_generator() -> FrameType | None:
    """Return the frame of the innermost running generator that yields to a consumer.

    One that ``contextlib`` or a test runner drives has none: its ``yield`` stands for a block.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller
    while frame is not None:
        flags = frame.f_code.co_flags
        if flags & (CO_GENERATOR | CO_ASYNC_GENERATOR):
            drivers = _ASYNC_DRIVERS if flags & CO_ASYNC_GENERATOR else _DRIVERS
            driver = frame.f_back
            if driver is None or driver.f_globals.get("__name__") not in drivers:
                return frame
        frame = frame.f_back
    return None


def is_running(frame_id: int) -> bool:
    """Return whether the caller was called by the code of that frame.

    Args:
        frame_id: The ``id()`` of a frame that has not ended.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        if id(frame) == frame_id:
            return True
        frame = frame.f_back
    return False
