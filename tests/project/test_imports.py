"""How the modules of the two packages lean on each other."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import pytest

from tests.source_files import ROOT, found, module_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _imported(path: Path) -> Iterator[str]:
    """Return the names of all that a module imports, for type checkers alone as well."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*above, *filter(None, [node.module])))
            yield origin
            yield from (f"{origin}.{one.name}" for one in node.names)


@pytest.mark.parametrize("folder", ["clients", "utils"])
def test_no_two_modules_import_each_other(folder: str) -> None:
    """Nor do three, nor for types alone: each can be read before those that use it."""
    modules = {module_name(path): path for path in found(f"{folder}/**/*.py")}
    # The package's __init__ hands on what the others define.
    graph = {
        name: {one for one in _imported(path) if one in modules and one != folder}
        for name, path in modules.items()
        if name != folder
    }

    assert sum(map(len, graph.values())) > 10
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_clients_do_not_know_the_stack() -> None:
    """Nothing in ``clients/`` imports ``utils``: it is also used without it."""
    assert [
        module_name(path)
        for path in found("clients/**/*.py")
        if any(one.split(".")[0] == "utils" for one in _imported(path))
    ] == []
