"""An exception that a signal handler raises anywhere leaves no lock of the clients locked."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeGuard

import pytest

from clients._shared.locks import OwnedLock
from tests.source_files import found, module_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = found("clients/**/*.py")
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


def test_no_loop_runs_under_a_lock_in_the_same_frame() -> None:
    """Up to Python 3.13 a jump back may leave a block without its end: loops are called instead.

    https://github.com/python/cpython/issues/130279
    """
    blocks = [
        (module_name(module), block)
        for module in MODULES
        for block in ast.walk(ast.parse(module.read_text()))
        if holds_a_lock(block)
    ]

    assert blocks
    assert [
        f"{module}:{inner.lineno}"
        for module, block in blocks
        for inner in in_the_same_frame(block)
        if isinstance(inner, LOOPS)
    ] == []


def test_every_lock_of_the_clients_is_an_owned_one() -> None:
    """But for the one that wakes a waiter, and the one whose class an owned one is of."""
    others = {
        module_name(module): ast.unparse(node)
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith((".Lock", ".RLock", ".Condition"))
    }

    assert others == {
        "clients._valkey.pool": "threading.Lock()",
        "clients._shared.locks": "threading.RLock()",
    }


@pytest.mark.parametrize("module", MODULES, ids=module_name)
def test_a_bounded_wait_ends_in_a_release_that_calls_no_python(module: Path) -> None:
    """At the entry of a function in Python an interrupt may come, and leave the lock locked."""
    tree = ast.parse(module.read_text())
    acquired = {
        ast.unparse(node.func).removesuffix(".acquire")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_lock.acquire")
    }
    ends = [ast.unparse(node.finalbody[0]) for node in ast.walk(tree) if guards_a_lock(node)]

    assert set(ends) == {
        f"try:\n    {lock}.release()\nexcept RuntimeError:\n    pass" for lock in acquired
    }


def guards_a_lock(node: ast.AST) -> TypeGuard[ast.Try]:
    return isinstance(node, ast.Try) and "_lock" in "".join(map(ast.unparse, node.finalbody))


def test_an_owned_lock_is_released_by_its_owner_alone() -> None:
    """Who does not have it hears so without harm; it may be taken more than once."""
    lock = OwnedLock()
    with lock, lock, ThreadPoolExecutor(1) as other:
        assert not other.submit(lock.acquire, timeout=0).result()
        with pytest.raises(RuntimeError):
            other.submit(lock.release).result()
        assert not other.submit(lock.acquire, timeout=0).result()
    with pytest.raises(RuntimeError):
        lock.release()

    with ThreadPoolExecutor(1) as other:
        assert other.submit(lock.acquire, timeout=0).result()
        other.submit(lock.release).result()
    assert lock.acquire(timeout=0)
