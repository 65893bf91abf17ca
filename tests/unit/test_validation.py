"""Settings of the three clients are checked alike, and refused in the same words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import ClientError, ConfigurationError, ValkeyConfigurationError
from clients._shared.environment import VaultSettings
from clients._shared.validation import (
    boolean_in,
    checked_callable,
    checked_choice,
    checked_count,
    checked_file,
    checked_flag,
    checked_seconds,
)
from clients._valkey.settings import check_tls_files
from clients._valkey.url import parse_valkey_url
from clients._vault.fields import SecretFields

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class _Hostile:
    """Has no text, no truth and no equality, as an array of numbers has none."""

    def __repr__(self) -> str:
        return "<hostile>"

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth of this is ambiguous")

    def __hash__(self) -> int:
        raise TypeError("unhashable")

    def __bool__(self) -> bool:
        raise ValueError("the truth of this is ambiguous")


_ANYTHING: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**5000)
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(), st.integers(), max_size=2)
    | st.builds(_Hostile)
)
_REFUSAL = re.compile("name is .*: it must be ", re.DOTALL)
_CHECKS: dict[str, Callable[[Any], object]] = {
    "seconds": lambda value: checked_seconds("name", value, ConfigurationError),
    "count": lambda value: checked_count("name", value, ConfigurationError, minimum=1),
    "flag": lambda value: checked_flag("name", value, ConfigurationError),
    "choice": lambda value: checked_choice("name", value, ("a", "b"), ConfigurationError),
    "callable": lambda value: checked_callable("name", value, ConfigurationError, that="runs"),
}


@pytest.mark.parametrize("kind", _CHECKS)
@given(value=_ANYTHING)
def test_whatever_is_given_is_returned_or_refused_by_name(kind: str, value: Any) -> None:
    """No other error comes out, and what is returned is what was given."""
    found = _outcome(lambda: _CHECKS[kind](value))

    assert (
        found is value
        or (isinstance(found, str) and _REFUSAL.match(found))
        or (isinstance(value, int | float) and found == value)
    )


@given(st.text() | st.sampled_from(["yes", "No", " TRUE", "off\n", "0", "t", "F", "y"]))
def test_environment_and_secrets_read_booleans_alike(text: str) -> None:
    """A word that is one in ``VAULT_SKIP_VERIFY`` is one in a secret's field ``tls``."""
    said = boolean_in(text)
    if not text.strip() or text.strip().lower() == "none":
        return  # unset there, and absent here

    read = (
        _outcome(lambda: VaultSettings.from_env({"VAULT_SKIP_VERIFY": text}).skip_verify),
        _outcome(lambda: SecretFields({"tls": text}, "x").switch(("tls",))),
    )

    assert [one if isinstance(one, bool) else None for one in read] == [said, said]


def _outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except ClientError as error:
        return str(error)


def test_files_are_refused_alike(tmp_path: Path) -> None:
    """Missing, a folder, a key with a password: for Vault's variables and Valkey's options."""
    locked = tmp_path / "locked.pem"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    for path, told in (
        (tmp_path / "none.pem", "which is no file that can be read"),
        (tmp_path, "which is no file that can be read"),
        (locked, "whose key needs a password"),
    ):
        with pytest.raises(ConfigurationError, match=f"^VARIABLE names '{path}', {told}"):
            checked_file("VARIABLE", str(path), ConfigurationError)
        target = parse_valkey_url(f"rediss://h?ssl_certfile={path}")
        with pytest.raises(
            ValkeyConfigurationError, match=f"'ssl_certfile' names '{path}', {told}"
        ):
            check_tls_files(target)
    with pytest.raises(ConfigurationError, match="no file that can be read"):
        checked_file("VARIABLE", "a\0b", ConfigurationError)
    assert checked_file("VARIABLE", str(locked), ConfigurationError, may_need_password=True)
    check_tls_files(parse_valkey_url(f"rediss://h?ssl_certfile={locked}&ssl_password=x"))
