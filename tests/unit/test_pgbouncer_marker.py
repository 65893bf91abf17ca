"""Tests that need pgbouncer are deselected where it is missing, and the summary says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_RUN = """
import shutil, sys
shutil.which = lambda *args, **kwargs: None
import pytest
sys.exit(pytest.main(["tests/faults/test_postgres_pgbouncer.py", "-q", "-p", "no:cacheprovider"]))
"""


def test_without_the_program_its_tests_are_deselected_with_a_line_that_says_so() -> None:
    """They are not skipped, they are not failures, and nobody has to guess why they are gone."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert "tests deselected: the program pgbouncer is missing" in done.stdout
    assert "skipped" not in done.stdout
    assert "14 deselected" in done.stdout
