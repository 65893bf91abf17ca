"""Answers of any shape: what reads them returns something or nothing, and never raises."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients._vault.api import (
    credential_in,
    kv_version_in,
    secret_in,
    token_life_in,
    written_at,
)
from clients._vault.token_grant import grant_in
from clients.errors import VaultConnectionError
from clients.vault_client import VaultClient
from tests.http_fault_proxy import Fault

if TYPE_CHECKING:
    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab

_NUMBERS = ["1e400", "-1e400", "-1", "NaN", "9" * 400, "true", '"60"', "[60]", "null"]
_FIELDS = [
    "auth", "data", "client_token", "lease_duration", "num_uses", "renewable", "policies",
    "creation_time", "ttl", "username", "password", "lease_id", "rotation_period", "metadata",
    "created_time", "options", "version", "type", "keys",
]  # fmt: skip
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=6)
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=6))
def test_no_shape_of_an_answer_raises(body: dict[str, Any]) -> None:
    """A number that no clock knows, a list for a text: nothing is found in it."""
    grant_in(body, 0.0, 1)
    for read in (credential_in, kv_version_in, secret_in, token_life_in, written_at):
        read(body)


@pytest.mark.parametrize("number", _NUMBERS)
def test_a_life_that_is_no_number_of_seconds_is_refused(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, number: str
) -> None:
    """At the login, at the lookup of a token, and at the renewal."""
    answer = f'{{"auth":{{"client_token":"hvs.x","lease_duration":{number}}}}}'
    vault_proxy.plan(Fault(200, answer.encode()), path="/login")
    with pytest.raises(VaultConnectionError) as caught:
        VaultClient(vault_proxy.url, **vault_lab.role().arguments())
    assert caught.value.reason == "not_vault"
    if json.loads(number) is None:
        return  # where a token has no end, the lookup says that
    vault_proxy.plan(Fault(200, f'{{"data":{{"ttl":{number}}}}}'.encode()), path="lookup-self")
    with pytest.raises(VaultConnectionError) as caught:
        VaultClient(vault_proxy.url, vault_lab.token(), environ={})
    assert caught.value.reason == "not_vault"
