"""Every command that the README and CONTRIBUTING show is run, as a reader would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.board_sample import whole_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
#: What needs servers and users of its own: test_readme_vault.py runs all of it.
_ADMINISTRATION = re.compile(
    r"^## (?:Your secrets and login|Rotation)\n.*?(?=^## )", re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"`((?:STACK=\w+ )?(?:make|python -m|pip install) [^`]+)`")


def _text(page: str) -> str:
    return _ADMINISTRATION.sub("", (ROOT / page).read_text())


def _blocks(page: str, language: str) -> list[str]:
    return [body for name, body in _BLOCK.findall(_text(page)) if name == language]


def _inline(page: str) -> list[str]:
    # A command may be broken over two lines of a paragraph.
    return [" ".join(one.split()) for one in _INLINE.findall(_BLOCK.sub("", _text(page)))]


PAGES = ("README.md", "clients/README.md", "CONTRIBUTING.md")
SCRIPTS = [(page, block) for page in PAGES for block in _blocks(page, "sh")]
#: What a sentence names; the lines of the blocks are run with their block.
COMMANDS = sorted(
    {command for page in PAGES for command in _inline(page)}
    - {line for _, block in SCRIPTS for line in block.splitlines()}
)
#: Pytest collects one file instead of running all: this test's own suite would run itself for ever.
COLLECT = "--collect-only -q tests/integration/test_postgres_connection.py"
INSTALLS = [one for one in COMMANDS if one.startswith("pip install ")]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A checkout with this environment as its .venv, and with a stack of its own.

    A developer's stack, left running by ``make up`` in the real one, is none of the tests'.
    """
    for path in ROOT.iterdir():
        # Copies: a command may write them.
        if path.is_file():
            shutil.copy(path, tmp_path)
        elif path.name == "tests":
            shutil.copytree(path, tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        elif not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    whole_run().write(tmp_path)
    environment = tmp_path / ".venv"
    environment.mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith("installed-"):
            (environment / path.name).symlink_to(path)
    for name in ("installed-dev", "installed-local"):
        (environment / name).touch()
    yield tmp_path
    # `make up` in a sentence leaves its servers running.
    if (tmp_path / ".stack").exists():
        assert run("make down", tmp_path).returncode == 0


def run(
    script: str, checkout: Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a reader's shell in the checkout."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(checkout),
        "PYTEST_ADDOPTS": COLLECT,
        **(environ or {}),
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_block_is_of_a_kind_that_the_suite_runs() -> None:
    """A block in another language, or with a fence of another kind, would never be run."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        kinds = {kind for kind, _ in _BLOCK.findall(text)}

        assert kinds <= {"sh", "python", "sql"}  # Python and SQL: test_readme.py
        assert len(_FENCE.findall(text)) == 2 * len(_BLOCK.findall(text))
    assert _blocks("CONTRIBUTING.md", "python") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "script"),
    SCRIPTS,
    ids=lambda value: value.split("\n")[0],
)
def test_a_shell_block_runs(page: str, script: str, checkout: Path) -> None:
    """Copied into a shell as a whole, it ends well, and leaves nothing running."""
    # From a cold start mypy takes a minute, and CI has just run it.
    done = run(script.replace("make typecheck", "make -n typecheck"), checkout)

    assert done.returncode == 0, f"{page}: {done.stdout}{done.stderr}"
    assert not (checkout / ".stack").exists()
    if "integration-check" in script:
        assert done.stdout.rstrip().endswith("All infrastructure clients healthy!")


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in INSTALLS])
def test_a_command_in_a_sentence_runs(command: str, checkout: Path, stack: StackEndpoints) -> None:
    """On a running stack; where Docker would be needed, make says what it would do."""
    script = command.replace("COMMAND", "python -m clients check")
    if "STACK=docker" in script:
        script = script.replace("make ", "make -n ")

    done = run(script, checkout, stack.environment())

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_installed_is_this_project() -> None:
    """The name behind ``pip install`` is the distribution's, and the extra is one of its own."""
    project = tomllib.loads(_text("pyproject.toml"))["project"]
    names = {project["name"]} | {
        f"'{project['name']}[{extra}]'" for extra in project["optional-dependencies"]
    }

    assert INSTALLS
    assert {one.removeprefix("pip install ") for one in INSTALLS} <= names
