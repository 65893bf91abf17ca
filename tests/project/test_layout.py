"""Each file is where CONTRIBUTING.md says that such files are."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from fnmatch import fnmatch

import pytest

from tests.source_files import ROOT, found

#: The table's rows: a folder, and what stands beside it.
LAYOUT: dict[str, str] = dict(
    re.findall(r"^\| `([\w/]+/)` \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
)


def test_the_top_level_is_the_one_that_was_agreed() -> None:
    """Nothing stands at the top beyond the agreed files and folders."""
    allowed = {"pyproject.toml", "README.md", "Makefile", "docker-compose.yml", "clients", "utils"}
    allowed |= {"tests", "sql", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"}

    assert {name for name in _top_level() if not name.startswith(".")} <= allowed


def test_no_commit_holds_what_git_ignores() -> None:
    """A virtual environment is nobody else's, nor is a link to one: a clone has neither."""
    with suppress(OSError, subprocess.CalledProcessError):
        assert _listed_by_git("--cached", "--ignored", "--exclude-standard") == []
    # A pattern with a slash behind it is for folders alone.
    assert ".venv" in (ROOT / ".gitignore").read_text().splitlines()


def _listed_by_git(*options: str) -> list[str]:
    # Whoever owns the checkout: git refuses another user's.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", *options]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def _top_level() -> set[str]:
    """Return what a commit would hold; where git cannot say, what .gitignore does not name."""
    with suppress(OSError, subprocess.CalledProcessError):
        return {name.split("/")[0] for name in _listed_by_git()}
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    names = {path.name for path in ROOT.iterdir()}
    return {name for name in names if not any(fnmatch(name, one) for one in ignored)}


def test_every_folder_with_modules_has_its_line_in_the_layout() -> None:
    """Who looks for a module finds its folder in CONTRIBUTING.md, and no folder that is gone."""
    modules = found("clients/**/*.py", "utils/**/*.py", "tests/*/*.py")
    folders = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in modules}

    assert folders | {"sql/"} == set(LAYOUT)


@pytest.mark.parametrize("folder", ["clients/", "utils/"])
def test_every_public_module_is_named_in_the_layout(folder: str) -> None:
    """What users import has no private name, and each of it is named; the rest is in folders."""
    modules = {path.name for path in found(f"{folder}*.py")} - {"__init__.py"}

    assert [name for name in modules if re.match(r"_(?!_)", name)] == []
    assert modules == set(re.findall(r"`(\w+\.py)`", LAYOUT[folder]))


def test_every_module_stands_at_the_top_or_in_one_folder() -> None:
    """The folders have no folders of their own: what belongs together lies side by side."""
    modules = found("clients/**/*.py", "utils/**/*.py")

    assert [path for path in modules if len(path.relative_to(ROOT).parts) > 3] == []


def test_every_module_that_the_guide_names_exists() -> None:
    """Who looks for something finds the file that CONTRIBUTING.md names, in one folder alone."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    table = guide.partition("## Where to find what")[2].partition("\n## ")[0]
    names = set(re.findall(r"`([\w/]+\.py)`", table))
    paths = [path.relative_to(ROOT).as_posix() for path in found("clients/**/*.py")]
    matches = {name: [one for one in paths if f"/{one}".endswith(f"/{name}")] for name in names}
    shared = {"settings.py", "errors.py"}  # one for each client

    assert names >= shared
    assert {name for name, ones in matches.items() if not ones} == set()
    assert {name for name, ones in matches.items() if len(ones) > 1} == shared
