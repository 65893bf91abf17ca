"""Interrupts at the one moment when a lock is taken and nobody has noted it yet."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["interrupted_once_locked"]


@contextmanager
def interrupted_once_locked() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block, between the lock's own code and its caller's."""

    def interrupt(frame: FrameType, event: str, function: object) -> None:
        inside = "_vault_" in Path(frame.f_code.co_filename).name
        if inside and event == "c_return" and getattr(function, "__name__", "") == "acquire":
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        sys.setprofile(None)
