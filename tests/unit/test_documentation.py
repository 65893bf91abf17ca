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
    "clients.dagster_adapter",
    "clients.errors",
    "clients.factory",
    "clients.postgres_client",
    "clients.valkey_client",
    "clients.vault_client",
    "utils.local_stack",
    "utils.settings",
    "utils.user_context",
)
#: What these do cannot fail: they look at, or let go of, what this process holds.
CANNOT_FAIL = {"cache_stats", "clear_cache", "close", "credential_life", "pipeline", "stats"}
#: Whose behaviour another's document defines, and which module names the document.
DEFINED_ELSEWHERE = (
    "clients.dagster_adapter",
    "clients.postgres_client",
    "clients.valkey_client",
    "clients.vault_client",
    "clients._valkey_rate_limit",
    "clients._valkey_sessions",
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
        for method_name, method in inspect.getmembers(value, inspect.isroutine):
            # What a class inherits from pydantic or a tuple is theirs to explain.
            ours = (getattr(method, "__module__", None) or "").startswith(("clients", "utils"))
            if ours and not method_name.startswith("_"):
                yield f"{name}.{method_name}", method


def _parameters(made: type) -> list[str]:
    try:
        return list(inspect.signature(made).parameters)
    except ValueError:
        return []  # an exception that takes what every exception takes


OBJECTS = dict(_public_objects())
CLASSES = {name: value for name, value in OBJECTS.items() if inspect.isclass(value)}
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


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_class_explains_its_constructor(name: str) -> None:
    """The class's docstring, or that of a class of ours it comes from, lists each argument."""
    made = CLASSES[name]
    fields = getattr(made, "model_fields", {})
    doc = "\n".join(
        inspect.getdoc(one) or ""
        for one in made.__mro__
        if one.__module__.startswith(("clients", "utils"))
    )

    unexplained = [
        one
        for one in _parameters(made)
        if not re.search(rf"^ +\*{{0,2}}{one}: ", doc, re.MULTILINE)
        # A resource's fields are explained where Dagster's own pages show them.
        and not (one in fields and fields[one].description)
    ]

    assert unexplained == []


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_callable_says_what_it_returns(name: str) -> None:
    """What comes back is in the first sentence, or in a section of its own."""
    doc = inspect.getdoc(CALLABLES[name]) or ""
    returned = inspect.signature(CALLABLES[name]).return_annotation
    if returned in {None, "None", "NoReturn"} or doc.startswith("Queue ``"):
        return

    assert re.search(r"^(Returns|Yields):", doc, re.MULTILINE) or doc.startswith("Return ")


@pytest.mark.parametrize("client", ["VaultClient", "PostgresClient", "ValkeyClient", "Clients"])
def test_every_operation_says_how_it_fails(client: str) -> None:
    """Whatever talks to a server names the errors that come out of it."""
    methods = {
        name.rpartition(".")[2]: inspect.getdoc(method) or ""
        for name, method in CALLABLES.items()
        if name.startswith(f"clients.{client}.")
    }

    silent = [name for name, doc in methods.items() if "\nRaises:\n" not in doc]

    assert methods
    assert set(silent) <= CANNOT_FAIL


@pytest.mark.parametrize("name", DEFINED_ELSEWHERE)
def test_a_module_names_the_document_that_it_follows(name: str) -> None:
    """A reader who doubts a behaviour finds where it is defined."""
    doc = importlib.import_module(name).__doc__ or ""

    assert "https://" in doc


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
