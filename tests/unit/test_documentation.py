"""Every public name says what it does, what it takes, and how it fails."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import TYPE_CHECKING

import pytest

import clients.errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUBLIC_MODULES = (
    "clients",
    "clients.errors",
    "clients.factory",
    "clients.postgres_client",
    "clients.valkey_client",
    "clients.vault_client",
    "utils.local_stack",
    "utils.settings",
    "utils.user_context",
)


def _public_objects() -> Iterator[tuple[str, object]]:
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module_name}.{name}", value


def _public_callables() -> Iterator[tuple[str, Callable[..., object]]]:
    for name, value in _public_objects():
        if inspect.isfunction(value):
            yield name, value
            continue
        for method_name, method in inspect.getmembers(value, inspect.isfunction):
            if not method_name.startswith("_"):
                yield f"{name}.{method_name}", method


OBJECTS = dict(_public_objects())
CALLABLES = dict(_public_callables())


@pytest.mark.parametrize("name", OBJECTS)
def test_every_public_name_has_a_docstring(name: str) -> None:
    """A class or function that users import says what it is, in a sentence."""
    first_line = (inspect.getdoc(OBJECTS[name]) or "").split("\n")[0]

    assert first_line.endswith((".", ":", "?"))


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_callable_explains_its_arguments(name: str) -> None:
    """Whatever takes arguments lists each of them."""
    function = CALLABLES[name]
    doc = inspect.getdoc(function) or ""
    if doc.startswith("Queue ``"):
        # A pipeline's methods take what the client's methods of the same name take.
        return

    arguments = [one for one in inspect.signature(function).parameters if one != "self"]
    unexplained = [
        one for one in arguments if not re.search(rf"^ +\*{{0,2}}{one}: ", doc, re.MULTILINE)
    ]

    assert doc
    assert unexplained == []


@pytest.mark.parametrize("name", CALLABLES)
def test_raises_name_our_own_errors(name: str) -> None:
    """What a docstring says that it raises exists, and is ours or documented as another's."""
    doc = inspect.getdoc(CALLABLES[name]) or ""
    section = doc.partition("Raises:\n")[2].partition("\n\n")[0]

    raised = re.findall(r"^    ([A-Z]\w+(?:\.\w+)?):", section, re.MULTILINE)

    known = {*clients.errors.__all__, "StackError", "psycopg.Error"}
    assert [one for one in raised if one not in known] == []


def test_the_durations_of_constructors_name_their_unit() -> None:
    """Each time-out of a client says that it is in seconds."""
    for client in (clients.VaultClient, clients.PostgresClient, clients.ValkeyClient):
        doc = inspect.getdoc(client) or ""
        names = [n for n in inspect.signature(client).parameters if n.endswith(("timeout", "_ttl"))]

        assert names
        for name in names:
            described = re.search(rf"^ +{name}: (.*(?:\n     .*)*)", doc, re.MULTILINE)
            assert described is not None
            assert "econds" in described.group(1)
