"""The tree of errors: drawn as it is, importable, and fit to cross a process boundary."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from clients import errors
from clients.errors import (
    ClientError,
    ConfigurationError,
    NoRowsError,
    PostgresConfigurationError,
    PostgresError,
    RowCountError,
    ValkeyError,
    VaultConnectionError,
    VaultError,
    VaultSecretsError,
)

CLASSES: list[type[ClientError]] = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, ClientError)
]
# What each class carries beside its message.
ATTRIBUTES: dict[type[ClientError], dict[str, Any]] = {
    VaultConnectionError: {
        "reason": "sealed",
        "status": 503,
        "retry_after": 1.5,
        "maybe_applied": True,
    },
    VaultError: {"reason": "missing", "status": 404, "maybe_applied": True},
    RowCountError: {"expected": 1, "actual": 2, "table": "contacts", "reason": "row_count"},
    PostgresError: {
        "sqlstate": "23505",
        "constraint": "contacts_email_key",
        "table": "contacts",
        "reason": "lost",
        "maybe_applied": True,
    },
    ValkeyError: {"code": "WRONGTYPE", "reason": "lost", "maybe_applied": True},
    ClientError: {"reason": "setting", "maybe_applied": True},
}


def drawn_tree() -> dict[str, str | None]:
    """Return each class of the drawing in the module's docstring, and its parent there."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:  )*)([A-Z]\w+(?:Error))\b", line)
        if match:
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            parents[match[2]] = path[-2] if depth else None
    return parents


def test_the_drawing_is_the_tree() -> None:
    """Every class is drawn, under the class that it derives from."""
    drawn = drawn_tree()

    assert set(drawn) == {kind.__name__ for kind in CLASSES}
    for name, parent in drawn.items():
        bases = [base.__name__ for base in getattr(errors, name).__bases__]
        assert (parent or "Exception") in bases, name


def test_the_seeds_name_is_the_same_class() -> None:
    """VaultSecretsError is VaultError by another name."""
    assert VaultSecretsError is VaultError


def test_everything_is_exported() -> None:
    """__all__ is sorted and complete."""
    names = [name for name, value in vars(errors).items() if value in CLASSES]

    assert sorted(errors.__all__) == errors.__all__ == sorted(names)


@pytest.mark.parametrize("service", ["Vault", "Postgres", "Valkey"])
def test_a_configuration_error_is_also_its_clients_error(service: str) -> None:
    """Whoever catches either, catches it."""
    kind = getattr(errors, f"{service}ConfigurationError")

    assert issubclass(kind, ConfigurationError)
    assert issubclass(kind, getattr(errors, f"{service}Error"))


def test_a_missing_row_is_a_value_error_too() -> None:
    """As the first design of execute_scalar() promised."""
    assert issubclass(NoRowsError, ValueError)
    assert issubclass(NoRowsError, PostgresError)


def make(kind: type[ClientError]) -> ClientError:
    """Make one with all its attributes."""
    for base in kind.__mro__:
        if base in ATTRIBUTES:
            return kind("the message", **ATTRIBUTES[base])
    raise AssertionError(f"{kind.__name__} is no ClientError")


def repickled(error: ClientError) -> Any:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("copier", [repickled, copy.copy])
def test_errors_are_copied_with_their_attributes(kind: type[ClientError], copier: Any) -> None:
    """Message, class and every attribute survive a pickle."""
    error = make(kind)
    again = copier(error)

    assert type(again) is kind
    assert str(again) == "the message"
    assert vars(again) == vars(error)
    assert error.reason is not None


@pytest.mark.parametrize("kind", CLASSES)
def test_attributes_have_defaults(kind: type[ClientError]) -> None:
    """A message is enough."""
    error = kind("the message")

    assert not any(vars(error).values())
    assert (error.reason, error.maybe_applied) == (None, False)


def fail() -> None:
    raise PostgresConfigurationError("fix it", sqlstate="42501")


def test_an_error_crosses_a_process_boundary() -> None:
    """A worker of a process pool raises it, and the parent sees the same."""
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(PostgresConfigurationError, match="fix it") as caught,
    ):
        pool.submit(fail).result()

    assert caught.value.sqlstate == "42501"
