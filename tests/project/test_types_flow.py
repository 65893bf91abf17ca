"""What type checkers see: the types that a caller's own row type and function give a call.

Run under mypy and pyright (the ``basedpyright`` package, which brings its own node).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

#: What a caller writes, and what both checkers have to make of it.
_EXPRESSIONS = {
    "db.execute(QUERY)": "Rows[dict[str, Any]]",
    "db.execute(QUERY, row_type=Contact)": "Rows[Contact]",
    "db.execute(QUERY, row_type=Pair)[0].name": "str",
    "db.execute(QUERY, (), expect=1, timeout=2.0, row_type=Contact)": "Rows[Contact]",
    "db.execute(QUERY, row_type=Contact).rowcount": "int",
    "[one.name for one in db.execute(QUERY, row_type=Contact)]": "list[str]",
    "db.execute_one(QUERY)": "dict[str, Any] | None",
    "db.execute_one(QUERY, row_type=Contact)": "Contact | None",
    "db.execute_one(QUERY, row_type=Typed)": "Typed | None",
    "db.run_transaction(work)": "Contact",
    "db.run_transaction(lambda conn: 1)": "int",
    "db.execute_many(QUERY, [])": "int",
    "conn": "GuardedConnection",
    "conn.execute(QUERY)": "GuardedCursor",
    "rows": "Iterator[dict[str, Any]]",
}
_MODULE = """
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from clients import GuardedConnection, PostgresClient

QUERY = "SELECT name FROM contacts"


@dataclass
class Contact:
    name: str


class Pair(NamedTuple):
    name: str


class Typed(TypedDict):
    name: str


def work(conn: GuardedConnection) -> Contact:
    return Contact("Ada")


def calls(db: PostgresClient) -> None:
    with db.connection() as conn, db.stream(QUERY) as rows:
        pass
"""


def _revealed_by_mypy(file: Path, cache: Path) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return re.findall(r'Revealed type is "(.+)"', run.stdout)


def _revealed_by_pyright(file: Path, _: Path) -> list[str]:
    settings = file.with_name("pyrightconfig.json")
    settings.write_text(json.dumps({"include": [file.name], "extraPaths": [str(ROOT)]}))
    run = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(settings)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    found = json.loads(run.stdout)["generalDiagnostics"]
    return [
        text[1]
        for one in found
        if one["severity"] == "information"
        and (text := re.search(r'Type of ".+" is "(.+)"$', one["message"], re.DOTALL))
    ]


def _plain(name: str) -> str:
    """Return a type as both checkers would write it."""
    name = re.sub(r"TypedDict\('?([\w.]+)'?, \{.*?\}\)", r"\1", name)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name).rstrip("*?")


@pytest.mark.parametrize("checker", [_revealed_by_mypy, _revealed_by_pyright])
def test_a_callers_types_flow_through_every_call(
    tmp_path: Path, checker: Callable[[Path, Path], list[str]]
) -> None:
    """``row_type``, the result of ``run_transaction`` and ``Rows`` need no cast."""
    file = tmp_path / "caller.py"
    lines = [f"        reveal_type({one})" for one in _EXPRESSIONS]
    file.write_text("\n".join([_MODULE.rstrip(), *lines, ""]))

    revealed = checker(file, tmp_path / "cache")

    assert dict(zip(_EXPRESSIONS, map(_plain, revealed), strict=True)) == _EXPRESSIONS
