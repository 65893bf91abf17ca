"""What the packages offer, and what importing them costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from types import ModuleType
from typing import TypeVar

import pytest

import clients
import utils
from tests.source_files import ROOT, found, module_name

# The adapters are left out: importing one is what needs its extra.
MODULES = sorted(
    module.name
    for package in (clients, utils)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.ispkg
    and not module.name.endswith((".__main__", "_adapter", "._stack.guard"))
    and not module.name.startswith("clients._dagster.")
)
#: All of them: this environment has the extras.
ALL_MODULES = [
    module_name(path)
    for path in found("clients/**/*.py", "utils/**/*.py")
    # The one's test is above, and the other is a script.
    if path.name not in {"__init__.py", "guard.py"}
]


def test_the_package_exports_what_it_imports() -> None:
    """``__all__`` of clients is exactly what its ``__init__`` makes available."""
    assert set(clients.__all__) <= set(dir(clients))
    for name in clients.__all__:
        assert getattr(clients, name) is not None
    offered = {
        name
        for name, value in vars(clients).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }

    assert sorted(offered) == clients.__all__


@pytest.mark.parametrize(
    ("statement", "drivers"),
    [
        ("import clients", []),
        ("import clients.errors", []),
        ("from clients import ValkeyClient", ["redis"]),
        ("from clients import PostgresClient", ["psycopg"]),
        ("from clients import VaultClient", ["hvac"]),
        ("from clients import build_clients", ["hvac", "psycopg", "redis"]),
        ("import clients; clients.vault_client", ["hvac"]),
    ],
)
def test_an_import_waits_for_its_own_driver_alone(statement: str, drivers: list[str]) -> None:
    """Who uses one client does not pay for the import of the other two's drivers."""
    script = f"""{statement}
import sys
print(*sorted({{"hvac", "psycopg", "redis"}} & {{*sys.modules}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.stdout.split(), done.stderr) == (drivers, "")


#: The modules whose classes users call. Their other types are what adapters and tests get.
_CALLED = ("postgres_client", "valkey_client", "vault_client", "factory", "_postgres.guarded")
_INTERNAL = {"Block", "BlockUse"}


@pytest.mark.parametrize("name", _CALLED)
def test_what_a_public_method_takes_or_returns_can_be_imported_from_clients(name: str) -> None:
    """So that a caller can annotate helpers; also where annotations are evaluated."""
    tree = ast.parse((ROOT / "clients" / f"{name.replace('.', '/')}.py").read_text())
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
        for alias in node.names
    } | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    named = {
        part.id
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef | ast.Module) and getattr(owner, "name", "")[:1] != "_"
        for function in owner.body
        if isinstance(function, ast.FunctionDef)
        if not function.name.startswith("_") or function.name in {"__init__", "__enter__"}
        for annotation in _annotations(function)
        for part in ast.walk(annotation)
        if isinstance(part, ast.Name)
    }

    assert (named & ours) - _INTERNAL - set(clients.__all__) == set()
    assert [one for one in named & ours - _INTERNAL if isinstance(getattr(clients, one), str)] == []


def _annotations(function: ast.FunctionDef) -> list[ast.expr]:
    given = function.args
    taken = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    found = [one.annotation for one in taken if one is not None]
    return [one for one in (*found, function.returns) if one is not None]


def test_a_name_that_is_not_there_is_refused_as_of_any_module() -> None:
    """The lazy imports do not make a typing error pass."""
    with pytest.raises(AttributeError, match="module 'clients' has no attribute 'ValkyClient'"):
        _ = clients.ValkyClient  # type: ignore[attr-defined]  # the point of the test


def test_every_module_says_what_it_exports() -> None:
    """Each module has an ``__all__``: sorted, public names alone, and each of them is there."""
    problems = {name: problem for name in ALL_MODULES if (problem := _trouble_with_all(name))}

    assert len(ALL_MODULES) > 50
    assert problems == {}


def _trouble_with_all(name: str) -> str:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    if exported is None:
        return "no __all__"
    if list(exported) != sorted(exported, key=_constants_classes_functions):
        return "not sorted"
    missing = [one for one in exported if not hasattr(module, one)]
    private = [one for one in exported if one.startswith("_") and one != "__version__"]
    return f"not there: {missing}, private: {private}" if missing or private else ""


def _constants_classes_functions(name: str) -> tuple[bool, bool, str]:
    # The order in which ruff sorts them.
    return not name.isupper(), not name[0].isupper(), name


def test_no_module_defines_a_public_name_that_it_does_not_export() -> None:
    """A public name that is left out of ``__all__`` is private without saying so."""
    unsaid = {
        name: names for name in ALL_MODULES if (names := _unexported(importlib.import_module(name)))
    }

    assert unsaid == {}


def _unexported(module: ModuleType) -> list[str]:
    defined = {
        target
        for node in ast.parse(inspect.getsource(module)).body
        for target in _defined(node)
        if not target.startswith("_")
    }
    types = {one for one in defined if isinstance(getattr(module, one), TypeVar)}
    return sorted(defined - types - set(module.__all__))


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [one.id for one in targets if isinstance(one, ast.Name)]


def test_importing_reads_no_environment_and_imports_no_dagster() -> None:
    """Importing every module opens no socket, reads no variable, and leaves Dagster out."""
    script = f"""
import importlib, os, socket, sys
def watched(name):
    def read(self, *args):
        frame = sys._getframe(1)
        while frame.f_code.co_filename == os.__file__:
            frame = frame.f_back
        reader = frame.f_code.co_filename
        assert not reader.startswith({tuple(f"{ROOT / one}/" for one in ("clients", "utils"))!r})
        return getattr(dict, name)(self, *args)
    return read
READS = ("__getitem__", "get", "__contains__", "__iter__", "keys", "items", "values", "copy")
Watched = type("Watched", (dict,), dict(zip(READS, map(watched, READS))))
import hvac, requests, redis, psycopg  # what the drivers do at import is theirs
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = refuse
os.environ = Watched(os.environ)
for name in {MODULES!r}:
    importlib.import_module(name)
assert "dagster" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "first",
    ["clients.identity", "clients._shared.environment", "clients.errors", "clients.valkey_client"],
)
def test_any_module_can_be_imported_first(first: str) -> None:
    """No order of imports ends in a circle."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {first}, clients"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_every_logger_has_a_name_that_users_know() -> None:
    """A logger is named for what users see, in the reference, and not for a private module."""
    made = [
        (module_name(path), line)
        for path in found("clients/**/*.py")
        for line in path.read_text().splitlines()
        if "getLogger" in line and "addFilter" not in line  # the latter is another package's
    ]
    known = set(re.findall(r"`(clients\.\w+)`", (ROOT / "clients" / "README.md").read_text()))

    assert made
    for module, line in made:
        name = re.fullmatch(r'_log = logging\.getLogger\("(clients\.\w+)"\)', line)
        assert name is not None, module
        assert name.group(1) in known, module


def test_the_environment_is_read_in_one_place_of_the_clients_and_one_of_the_stack() -> None:
    """No other module touches os.environ."""
    readers = [
        module_name(path)
        for path in found("clients/**/*.py", "utils/**/*.py")
        if "environ[" in (text := path.read_text()) or "os.environ" in text or "getenv" in text
    ]

    assert sorted(readers) == ["clients._shared.environment", "utils._stack.settings"]


@pytest.mark.parametrize(
    ("kind", "name"), [(clients.PostgresClient, "Postgres"), (clients.ValkeyClient, "Valkey")]
)
def test_a_client_whose_constructor_failed_can_be_shown(kind: type, name: str) -> None:
    """Error reporters show each frame's ``self``: a failure there would hide the first one."""
    with pytest.raises(clients.ConfigurationError) as caught:
        kind(7)
    frames = caught.tb.tb_next
    assert frames is not None

    shown = repr(frames.tb_frame.f_locals["self"])
    assert shown == f"<{name}Client without a server>"
