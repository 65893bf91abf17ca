"""The README cannot rot: its Python runs, and every public name stands in it or the reference."""

from __future__ import annotations

import ast
import inspect
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import clients
from clients._shared.environment import VaultSettings
from clients.dagster_adapter import ClientsResource, VaultSecretsResource
from utils._stack.settings import StackSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "clients" / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
SQL = re.findall(r"^```sql\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def _schema(stack: StackEndpoints) -> Iterator[None]:
    """What the README's SQL makes, for one test."""
    assert stack.superuser_url is not None, "the README's SQL needs a stack of the tests' own"
    with psycopg.connect(stack.superuser_url, autocommit=True) as conn:
        conn.execute("\n".join(SQL).encode())
        yield
        for table in re.findall(r"CREATE TABLE (\w+)", "\n".join(SQL)):
            conn.execute(f"DROP TABLE {table}".encode())


@pytest.mark.usefixtures("_schema")
@pytest.mark.parametrize("block", PYTHON, ids=[f"block {n}" for n in range(1, len(PYTHON) + 1)])
def test_every_python_block_runs(
    block: str, stack: StackEndpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader copies works on a running stack."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)

    # A reader's file has none of this file's __future__ imports.
    program = compile(block, "README.md", "exec", dont_inherit=True)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(program, names)  # noqa: S102 - our own README
    for name in [name for name in names if name.startswith("test_")]:
        names[name]()


def test_a_schema_of_ones_own_is_short() -> None:
    """The settings, the policy and the call."""
    (sql,) = SQL
    (block,) = [one for one in PYTHON if "RlsSetting(" in one]

    assert "CREATE POLICY" in sql
    assert block.count("RlsSetting(") == 2
    assert sum(1 for line in (sql + block).splitlines() if line.strip()) < 30


def test_a_newcomer_finishes_it() -> None:
    """It has no more lines than somebody reads; the long tables stand in the reference."""
    assert len(README.splitlines()) <= 450


def test_the_dagster_block_is_from_the_example() -> None:
    """What the README shows is in the code location that the tests run, without its docstrings."""
    example = (ROOT / "tests/examples/contacts_location.py").read_text()
    (block,) = [one for one in PYTHON if "dagster_adapter" in one]

    shown = _definitions(block)

    assert shown
    assert shown.items() <= _definitions(example).items()
    # Blank lines are the formatter's.
    assert sum(1 for line in block.splitlines() if line.strip()) < 30


def _definitions(text: str) -> dict[str, str]:
    """Return the classes and functions of a program, without docstrings."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node):
                del node.body[0]
            found[node.name] = ast.dump(node)
    return found


def test_every_make_target_in_it_exists() -> None:
    """Each ``make`` command that the README shows is a target."""
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))

    used = set(re.findall(r"\bmake (?:-s )?([a-z-]+)", "\n".join(SHELL) + README))

    assert used - targets == set()


@pytest.mark.parametrize("page", ["README.md", "clients/README.md", "CONTRIBUTING.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    """A link names a file of the repository, or a heading of a page."""
    text = (ROOT / page).read_text()
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = folder / path if path else ROOT / page

        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("name", clients.__all__)
def test_every_public_name_stands_in_it(name: str) -> None:
    """A name that users import is mentioned."""
    short = re.sub(r"^(Vault|Postgres|Valkey)(?=ConfigurationError)", "", name)

    assert re.search(rf"\b{short}\b", README + REFERENCE)


def _settings(made: Any) -> list[str]:
    """Return the arguments of a constructor, or the fields of a resource, as the table has them."""
    if fields_of := getattr(made, "model_fields", None):
        given = {name: field.default for name, field in fields_of.items()}
        given["vault_addr"] = None  # the company's own, and too long for a table
    else:
        given = {
            name: None if one.default is one.empty else one.default
            for name, one in inspect.signature(made).parameters.items()
        }
        given.pop("environ", None)  # for programs that bring their own
    # JSON writes texts as Python's formatter does.
    return [n if v is None else f"{n}={json.dumps(v)}" for n, v in given.items()]


@pytest.mark.parametrize(
    "made",
    [
        *(clients.VaultClient, clients.PostgresClient, clients.ValkeyClient, clients.build_clients),
        *(VaultSecretsResource, ClientsResource),
    ],
    ids=lambda made: made.__name__,
)
def test_every_setting_stands_in_it_with_its_default(made: Any) -> None:
    """The table has the settings of the code, in its order, with its defaults, and no others."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", REFERENCE, re.MULTILINE))
    told = re.findall(r"`([a-z]\w+(?:=[^`]*)?)`", rows[made.__name__])
    if rows[made.__name__].startswith("the same, and "):
        told = _settings(VaultSecretsResource) + told

    assert told == _settings(made)


def test_every_default_of_a_stack_variable_stands_in_it() -> None:
    """Likewise for the ports and the kind of the development stack."""
    rows = re.findall(r"^\| `(STACK|SDK_.*)` \|.*\| ([^|]*) \| +\|$", REFERENCE, re.MULTILINE)
    told = {n: v for names, values in rows for n, v in zip(
        names.split("`, `"), values.split(", "), strict=True
    )}  # fmt: skip

    defaults = StackSettings()
    assert told == {
        "STACK": f"`{defaults.kind}`",
        "SDK_VAULT_PORT": str(defaults.vault_port),
        "SDK_POSTGRES_PORT": str(defaults.postgres_port),
        "SDK_VALKEY_PORT": str(defaults.valkey_port),
    }


@pytest.mark.parametrize("name", [f"VAULT_{f.name.upper()}" for f in fields(VaultSettings)])
def test_every_variable_stands_in_it(name: str) -> None:
    """A variable that is read is in the table."""
    assert f"`{name}`" in REFERENCE


def test_every_stack_variable_stands_in_it() -> None:
    """Likewise for the development stack's."""
    names = {"STACK"} | {f"SDK_{f.name.upper()}" for f in fields(StackSettings) if f.name != "kind"}

    assert [name for name in sorted(names) if f"`{name}`" not in REFERENCE] == []
