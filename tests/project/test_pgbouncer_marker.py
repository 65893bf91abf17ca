"""Tests that need pgbouncer are deselected where it is missing, and the summary says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Python runs a module of this name at its start, in the workers of a parallel run too.
_WITHOUT_PROGRAMS = "import shutil; shutil.which = lambda *args, **kwargs: None"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_without_the_program_its_tests_are_deselected_with_a_line_that_says_so(
    workers: str, tmp_path: Path
) -> None:
    """They are not skipped, they are not failures, and nobody has to guess why they are gone."""
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_PROGRAMS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers),
            "tests/faults/test_postgres_pgbouncer.py",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=60,
    )
    told = re.search(r"(\d+) tests deselected: the program pgbouncer is missing", done.stdout)
    assert told
    assert int(told[1]) > 0
    assert "skipped" not in done.stdout
    assert "passed" not in done.stdout
