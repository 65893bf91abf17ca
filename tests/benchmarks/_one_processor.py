"""One processor for client and server, so that a round trip is work and nothing else.

With two, each round trip waits for the other processor to wake: in a virtual machine up to a tenth
of a millisecond, which is more than all the work, falls on every contestant alike, and is the more
the quieter the machine is. Such ratios would say little of the software.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["one_processor"]


@contextmanager
def one_processor(server: int) -> Iterator[None]:
    """Keep the calling thread and a server on one processor; elsewhere than on Linux do nothing.

    Args:
        server: The server's process id. What it forks meanwhile stays there, too.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = {process: os.sched_getaffinity(process) for process in (0, server)}
    for process in before:
        os.sched_setaffinity(process, {max(before[0])})
    try:
        yield
    finally:
        for process, processors in before.items():
            os.sched_setaffinity(process, processors)
