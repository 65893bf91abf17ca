"""``clients`` works beside an application's own ``utils``, and as a folder under another name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.source_files import ROOT, found

if TYPE_CHECKING:
    from pathlib import Path

    from utils.local_stack import StackEndpoints

HEALTHY = "All infrastructure clients healthy!"
#: What an application does with all of the public modules, whatever their package is called.
APPLICATION = """
import logging
import pickle
import sys
from utils.text import shout

logging.basicConfig(level=logging.WARNING)
from {package} import ConfigurationError, PostgresClient, build_clients, user_context
from {package}.dagster_adapter import VaultSecretsResource
from {package}.identity import get_current_user_id

with build_clients() as made, user_context("00000000-0000-4000-8000-00000000000a"):
    assert made.postgres.execute_scalar("SELECT 1") == 1
    with made.postgres.connection() as connection:
        assert connection.execute("SELECT 2 AS two").fetchone() == {{"two": 2}}
    made.valkey.set("stands:alone", "yes", expire_seconds=60)
    assert made.valkey.get("stands:alone") == "yes"
with VaultSecretsResource.from_env().yield_for_execution(None) as secrets:
    assert secrets.get_secret("crm/database")["url"]
try:
    PostgresClient(7)
except ConfigurationError as error:
    assert type(pickle.loads(pickle.dumps(error))) is type(error)
    assert type(error).__module__ == "{package}.errors"
ours = {{name for name in sys.modules if name.split(".")[0] in ("clients", "utils")}}
print(sys.modules["{package}"].__file__)
print(*sorted(ours - {{one for one in ours if ("{package}" + ".").startswith(one + ".")}}))
print(shout("well"))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, as it would be uploaded."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """An application's folder with a ``utils`` package of its own."""
    folder = tmp_path / "application"
    (folder / "utils").mkdir(parents=True)
    (folder / "utils/__init__.py").write_text("")
    (folder / "utils/text.py").write_text("shout = str.upper\n")
    return folder


def _run(
    words: list[str], application: Path, stack: StackEndpoints, site: Path | None = None
) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(application), **stack.environment()}
    if site is not None:
        env["PYTHONPATH"] = str(site)
    return subprocess.run(
        [sys.executable, *words],
        cwd=application,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def _write(application: Path, package: str) -> None:
    (application / "main.py").write_text(APPLICATION.format(package=package))


def test_the_wheel_works_beside_an_applications_own_utils(
    wheel: Path, application: Path, tmp_path: Path, stack: StackEndpoints
) -> None:
    """The application's ``utils`` hides the wheel's, and ``clients`` does not notice."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    _write(application, "clients")

    done = _run(["main.py"], application, stack, site)
    check = _run(["-m", "clients", "check"], application, stack, site)

    assert done.stderr == ""
    origin, others, words = done.stdout.splitlines()
    assert origin == str(site / "clients/__init__.py")
    assert [one for one in others.split() if not one.startswith("clients.")] == [
        "utils",
        "utils.text",
    ]
    assert words == "WELL"
    assert (check.stderr, check.stdout.splitlines()[-1]) == ("", HEALTHY)


def test_the_folder_may_be_vendored_under_another_name(
    application: Path, stack: StackEndpoints
) -> None:
    """Beside an application's own ``clients`` and ``utils``, neither of which it imports."""
    infra = application / "acme/infra"
    shutil.copytree(
        ROOT / "clients", infra / "clients", ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in (infra.parent, infra):
        (folder / "__init__.py").write_text("")
    (application / "clients").mkdir()
    (application / "clients/__init__.py").write_text("raise ImportError('these are customers')\n")
    _write(application, "acme.infra.clients")

    done = _run(["main.py"], application, stack)
    check = _run(["-m", "acme.infra.clients", "check"], application, stack)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        str(infra / "clients/__init__.py"),
        "utils utils.text",
        "WELL",
    ]
    assert (check.stderr, check.stdout.splitlines()[-1]) == ("", HEALTHY)


def test_the_clients_import_each_other_by_relative_names_alone() -> None:
    """An absolute import would find another package where the folder has another name."""
    absolute = re.compile(r"^\s*(?:from|import) (?:clients|utils)\b", re.MULTILINE)

    assert [
        path.relative_to(ROOT).as_posix()
        for path in found("clients/**/*.py")
        if absolute.search(path.read_text())
    ] == []
