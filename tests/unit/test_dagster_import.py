"""Dagster is an extra: nothing else imports it, and whoever lacks it is told what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""


def run(script: str, *hidden: str) -> subprocess.CompletedProcess[str]:
    code = _HIDE.format(hidden=set(hidden)) + script
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_clients_work_without_dagster_and_pydantic() -> None:
    """The package and its command line import with neither of them installed."""
    done = run("import clients, clients.__main__", "dagster", "pydantic")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("hidden", [["dagster"], ["dagster", "pydantic"]])
def test_without_dagster_the_adapter_names_the_extra(hidden: list[str]) -> None:
    """The error is a ModuleNotFoundError for dagster, with the command that mends it."""
    script = """
try:
    import clients.dagster_adapter
except ModuleNotFoundError as error:
    print(error.name, "|", error)
"""
    done = run(script, *hidden)

    name, message = done.stdout.strip().split(" | ")
    assert name == "dagster"
    assert "pip install 'failfast-clients[dagster]'" in message


def test_without_sqlalchemy_the_adapter_names_the_extra() -> None:
    """The error is a ModuleNotFoundError for sqlalchemy, with the command that installs it."""
    script = """
try:
    import clients.sqlalchemy_adapter
except ModuleNotFoundError as error:
    print(error.name, "|", error)
"""
    done = run(script, "sqlalchemy")

    name, message = done.stdout.strip().split(" | ")
    assert name == "sqlalchemy"
    assert "pip install 'failfast-clients[sqlalchemy]'" in message


def test_a_broken_dagster_is_not_called_a_missing_one() -> None:
    """When something that Dagster needs is missing, the error is about that."""
    done = run("import clients.dagster_adapter", "dagster_shared")

    assert "failfast-clients[dagster]" not in done.stderr
    assert "No module named 'dagster_shared" in done.stderr


def test_the_adapter_offers_what_it_exports() -> None:
    """The seed's names, the resources and the SDK's own error classes are there."""
    import clients.dagster_adapter as adapter  # noqa: PLC0415 - the other tests need no Dagster
    from clients import errors  # noqa: PLC0415 - likewise

    assert [name for name in adapter.__all__ if not hasattr(adapter, name)] == []
    for name in adapter.__all__:
        if name.endswith("Error"):
            assert getattr(adapter, name) is getattr(errors, name)
