"""An exception that a signal handler raises anywhere leaves no lock of the clients locked."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = sorted((Path(__file__).parents[2] / "clients").glob("*.py"))
# A generator expression runs in a frame of its own; the others are inlined.
LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)

LOCKS = ("_lock", ".lock", "_asking")


def holds_a_lock(node: ast.AST) -> bool:
    if isinstance(node, ast.With):
        return any(ast.unparse(item.context_expr).endswith(LOCKS) for item in node.items)
    return isinstance(node, ast.Try) and any(
        "release" in ast.unparse(line) for line in node.finalbody
    )


def in_the_same_frame(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield child
            yield from in_the_same_frame(child)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_loop_runs_under_a_lock_in_the_same_frame(module: Path) -> None:
    """Up to Python 3.13 a jump back may leave a block without its end: loops are called instead.

    https://github.com/python/cpython/issues/130279
    """
    tree = ast.parse(module.read_text())
    loops = [
        inner.lineno
        for block in filter(holds_a_lock, ast.walk(tree))
        for inner in in_the_same_frame(block)
        if isinstance(inner, LOOPS)
    ]

    assert loops == []
