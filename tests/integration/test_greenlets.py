"""All clients in a program whose threads are greenlets: gevent and eventlet, patched in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from utils.local_stack import StackEndpoints

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_greenlets_wait_for_each_other_and_share_no_transaction(
    stack: StackEndpoints, library: str
) -> None:
    """Locks hold greenlets of one thread apart: each has its own block, and one call serves all."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "tests.greenlet_program"),
            *(library, stack.database_url, stack.valkey_url),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "more requests than connections": [1] * 8,
        "tasks of a block": ["ZeroDivisionError", None, 1],
        "names": ["kept"],
        "one call for all": [7] * 4,
        "cached": [7] * 4,
        "incr": [1, 2, 3, 4, 5],
        "in use": 0,
        "productions": 2,
    }
