"""The walker that the tests of secrecy rely on finds a secret wherever a reporter would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients._shared.secrecy import Masked
from tests.secret_walker import SENTINEL, leaks_in, leaks_of

if TYPE_CHECKING:
    from collections.abc import Callable


class _Holder:
    def __init__(self, value: object) -> None:
        self.value = value


def _raised(fail: Callable[[object], None], value: object) -> BaseException:
    # Compiled under another name: the walker passes the frames of tests over.
    code = "def run(fail, local):\n    fail(local)\n"
    names: dict[str, Callable[[Callable[[object], None], object], None]] = {}
    exec(compile(code, "elsewhere.py", "exec"), names)  # noqa: S102 - a frame of another file
    try:
        names["run"](fail, value)
    except ValueError as error:
        return error
    raise AssertionError


def _plainly(_: object) -> None:
    raise ValueError("refused")


def _with_cause(value: object) -> None:
    raise ValueError("refused") from KeyError(value)


def _with_suppressed_context(value: object) -> None:
    try:
        _with_cause(value)
    except ValueError:
        raise ValueError("refused") from None


@pytest.mark.parametrize(
    "value",
    [
        SENTINEL,
        SENTINEL.encode(),
        f"postgresql://u:{SENTINEL}@h/d",
        [SENTINEL],
        {"password": SENTINEL},
        {SENTINEL: 1},
        _Holder(SENTINEL),
        _Holder(memoryview(SENTINEL.encode())),
    ],
    ids=["text", "bytes", "url", "list", "value", "key", "attribute", "memory in an attribute"],
)
def test_a_local_variable_is_found(value: object) -> None:
    """As text or bytes, in a container, and in an attribute."""
    assert leaks_in(_raised(_plainly, value), SENTINEL)


@pytest.mark.parametrize("fail", [_with_cause, _with_suppressed_context])
def test_the_chain_is_walked(fail: Callable[[object], None]) -> None:
    """Causes and contexts are kept by the exception, also behind ``from None``."""
    error = _raised(fail, SENTINEL)

    assert any("KeyError" in place for place in leaks_in(error, SENTINEL))


def test_what_shows_nothing_is_not_reported() -> None:
    """A masked secret, and a failure that has none."""
    assert leaks_in(_raised(_plainly, Masked(SENTINEL)), SENTINEL) == []
    assert leaks_in(_raised(_plainly, "innocent"), SENTINEL) == []


def test_a_percent_encoded_form_is_found() -> None:
    """A secret shows in a URL, too."""
    assert leaks_of(lambda: _plainly_says("p%40ss%2Fw"), "p@ss/w")


def _plainly_says(text: str) -> None:
    raise ValueError(text)
