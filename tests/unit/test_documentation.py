"""Every public name says what it does, what it takes, and how it fails."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

import clients.errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUBLIC_MODULES = (
    "clients",
    "clients._shared.environment",
    "clients.dagster_adapter",
    "clients.errors",
    "clients.factory",
    "clients.identity",
    "clients.postgres_client",
    "clients.sqlalchemy_adapter",
    "clients.valkey_client",
    "clients.vault_client",
    "utils._stack.settings",
    "utils.local_stack",
)
#: What these do cannot fail: they look at, let go of, or put together what this process holds.
CANNOT_FAIL = {
    *(
        "cache_stats",
        "clear_current_user_id",
        "current_identity",
        "credential_life",
        "pipeline",
        "stats",
    ),
    "VaultClient.clear_cache",
    *(
        "between",
        "generation",
        "life",
        "suspect_revoked",
        "child_environment",
        "identity_settings",
        "secret_paths",
        "variable",
    ),
    *("environment", "exports", "forget_ambient_servers", "from_json", "to_json"),
    # These tell a failure otherwise: by what they return, or in the log.
    *("VaultClient.close", "PostgresClient.close", "ValkeyClient.close", "LeasedUrl.close"),
    *("EmbeddedStack.close", "VaultSecretsResource.health_check", "ClientsResource.health_check"),
    *("FakeVaultSecretsResource.health_check", "local_stack.main"),
}
#: What can come out of every method of a class that fails at all, and what out of those with one
#: of the arguments.
COVERED = [
    ("PostgresClient", None, "PostgresConnectionError"),
    ("PostgresClient", "user_id", "RlsContextError"),
    ("VaultClient", "path", "VaultSecretNotFoundError"),
    ("VaultClient", "path", "VaultAuthenticationError"),
    ("VaultClient", "path", "VaultConnectionError"),
    ("ValkeyClient", None, "ValkeyConnectionError"),
    ("SessionStore", None, "ValkeyConnectionError"),
    *(
        ("VaultSecretsResource", "path", f"Vault{kind}Error")
        for kind in ("SecretNotFound", "Authentication", "Connection")
    ),
]
#: Whose behaviour another's document defines, and which module names the document.
DEFINED_ELSEWHERE = (
    "clients.dagster_adapter",
    "clients.postgres_client",
    "clients.valkey_client",
    "clients.vault_client",
    "clients._valkey.rate_limit",
    "clients._valkey.sessions",
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


def _parameters(made: Callable[..., object]) -> list[str]:
    try:
        return list(inspect.signature(made).parameters)
    except ValueError:
        return []  # an exception that takes what every exception takes


#: What blocks yield: made by the client alone, with the methods that psycopg's manual documents.
PSYCOPGS = "clients._postgres.guarded"
OBJECTS: dict[str, Any] = dict(_public_objects())
ERRORS: dict[str, type[Exception]] = {n: getattr(clients.errors, n) for n in clients.errors.__all__}
CLASSES = {
    name: value
    for name, value in OBJECTS.items()
    if inspect.isclass(value) and value.__module__ != PSYCOPGS
}
CALLABLES = dict(_public_callables())
#: But for a pipeline's methods, which take and do what the client's of the same name do.
OWN_DOCS = {
    name: one
    for name, one in CALLABLES.items()
    if not (inspect.getdoc(one) or "").startswith("Queue ``") and one.__module__ != PSYCOPGS
}


def test_every_public_name_has_a_docstring() -> None:
    """A class or function that users import says what it is, in a sentence."""
    first_lines = {
        name: (inspect.getdoc(one) or "").split("\n")[0] for name, one in OBJECTS.items()
    }

    assert first_lines
    assert [name for name, line in first_lines.items() if not line.endswith((".", ":", "?"))] == []


def test_every_public_callable_explains_its_arguments() -> None:
    """Whatever takes arguments lists each of them."""
    unexplained = [
        f"{name}({argument}=)"
        for name, function in OWN_DOCS.items()
        for argument in inspect.signature(function).parameters
        if argument != "self" and not _explains(inspect.getdoc(function) or "", argument)
    ]

    assert [name for name, function in OWN_DOCS.items() if not inspect.getdoc(function)] == []
    assert unexplained == []


def test_every_public_class_explains_its_constructor() -> None:
    """The class's docstring, or that of a class of ours it comes from, lists each argument."""
    assert CLASSES
    assert {
        name: missing for name, made in CLASSES.items() if (missing := _unexplained(made))
    } == {}


def _unexplained(made: type) -> list[str]:
    fields = getattr(made, "model_fields", {})
    doc = "\n".join(
        inspect.getdoc(one) or ""
        for one in made.__mro__
        if one.__module__.startswith(("clients", "utils"))
    )
    return [
        one
        for one in _parameters(made)
        # A resource's fields are explained where Dagster's own pages show them.
        if not _explains(doc, one) and not (one in fields and fields[one].description)
    ]


def _explains(doc: str, argument: str) -> bool:
    return re.search(rf"^ +\*{{0,2}}{argument}: ", doc, re.MULTILINE) is not None


def test_every_public_callable_says_what_it_returns() -> None:
    """What comes back is in the first sentence, or in a section of its own."""
    returning = {
        name: inspect.getdoc(function) or ""
        for name, function in OWN_DOCS.items()
        if inspect.signature(function).return_annotation not in {None, "None", "NoReturn"}
    }

    assert returning
    assert [
        name
        for name, doc in returning.items()
        if not (re.search(r"^(Returns|Yields):", doc, re.MULTILINE) or doc.startswith("Return "))
    ] == []


def test_every_public_callable_says_how_it_fails() -> None:
    """Whatever can fail names the errors that come out of it, and nothing else does."""
    silent = {name for name, one in OWN_DOCS.items() if not _raised(inspect.getdoc(one) or "")}
    cannot_fail = {
        name for name in OWN_DOCS if any(name.endswith(f".{one}") for one in CANNOT_FAIL)
    }

    assert sorted(silent - cannot_fail) == []
    assert sorted(cannot_fail - silent) == []


def test_what_a_public_callable_raises_itself_is_named() -> None:
    """An error in its own lines stands in its docstring by its own name."""
    assert {
        name: unnamed for name, one in CALLABLES.items() if (unnamed := _raised_without_a_word(one))
    } == {}


def _raised_without_a_word(public: Callable[..., object]) -> list[str]:
    function = inspect.unwrap(public)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raises = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    made = [one.func.id for one in raises if isinstance(one, ast.Call) and _is_name(one.func)]

    named = _raised(inspect.getdoc(function) or "")

    return [one for one in made if one in ERRORS and one not in named]


@pytest.mark.parametrize(("client", "argument", "error"), COVERED)
def test_what_comes_out_of_a_client_is_named(client: str, argument: str | None, error: str) -> None:
    """Whoever catches all that a method names has caught this failure too."""
    methods = {
        name: inspect.getdoc(method) or ""
        for name, method in CALLABLES.items()
        if f".{client}." in name
        and (argument is None or argument in inspect.signature(method).parameters)
    }

    named = {name: found for name, doc in methods.items() if (found := _raised(doc))}

    assert named
    assert [name for name, found in named.items() if not _covers(found, error)] == []


@pytest.mark.parametrize("service", ["Vault", "Postgres", "Valkey"])
def test_a_constructor_names_what_can_be_wrong(service: str) -> None:
    """A bad setting and a server that does not let us in are told apart."""
    named = _raised(inspect.getdoc(getattr(clients, f"{service}Client")) or "")

    assert {f"{service}ConfigurationError", f"{service}ConnectionError"} <= set(named)


@pytest.mark.parametrize("name", DEFINED_ELSEWHERE)
def test_a_module_names_the_document_that_it_follows(name: str) -> None:
    """A reader who doubts a behaviour finds where it is defined."""
    doc = importlib.import_module(name).__doc__ or ""

    assert "https://" in doc


def test_raises_name_our_own_errors() -> None:
    """What a docstring says that it raises exists, and is ours or documented as another's."""
    raised = {name: _raised(inspect.getdoc(one) or "") for name, one in CALLABLES.items()}

    known = {*clients.errors.__all__, "StackError", "psycopg.Error"}
    assert any(raised.values())
    assert {name: unknown for name, all_ in raised.items() if (unknown := {*all_} - known)} == {}


def test_every_duration_names_its_unit() -> None:
    """Each time-out and time to live says that it is in seconds."""
    durations = [
        (name, one)
        for name, made in OBJECTS.items()
        for one in _parameters(made)
        if one.endswith(("timeout", "_ttl"))
    ]

    assert durations
    assert [
        f"{name}({one}=)"
        for name, one in durations
        if "econds" not in _described(OBJECTS[name], one)
    ] == []


def _described(made: Any, argument: str) -> str:
    doc = inspect.getdoc(made) or ""
    found = re.search(rf"^ +{argument}: (.*(?:\n     .*)*)", doc, re.MULTILINE)
    return found[1] if found else str(made.model_fields[argument].description)


def _raised(doc: str) -> list[str]:
    section = doc.partition("Raises:\n")[2].partition("\n\n")[0]
    return re.findall(r"^    ([A-Z]\w+(?:\.\w+)?):", section, re.MULTILINE)


def _covers(named: list[str], error: str) -> bool:
    return any(issubclass(ERRORS[error], ERRORS[one]) for one in named if one in ERRORS)


def _is_name(node: ast.expr) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)
