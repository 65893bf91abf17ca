"""The table of rights is true: a role with just what it names can call the method, and no less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from clients.valkey_client import SessionStore, ValkeyClient, ValkeyError
from tests.valkey_methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils.local_stack import StackEndpoints

README = (Path(__file__).parents[2] / "clients/README.md").read_text()
#: Which row of the table each call stands in, and whether with an expiry.
WITH_EXPIRY = "; with an expiry "


def _sessions(client: ValkeyClient) -> None:
    store = SessionStore(client)
    for end in (store.revoke, lambda _: store.revoke_all("u")):
        token = store.create("u", {"a": 1})
        assert store.read(token) is not None
        assert store.update(token, {"b": 2}) is not None
        assert store.replace(token, 5) is not None
        assert store.list("u")
        assert end(token)


def _calls() -> dict[str, tuple[str, Callable[[ValkeyClient], Any]]]:
    calls = {
        name: (name.split(" ")[0], method)
        for name, method in METHODS.items()
        if not name.startswith(("sessions.", "cached", "pipeline"))
    }
    calls["cached"] = ("cached", lambda c: c.cached("c", 60, lambda: 5))
    calls["SessionStore"] = ("SessionStore", _sessions)
    return calls


def _rights(method: str, *, expiry: bool) -> list[str]:
    table = README.partition("## What a Valkey user may do")[2]
    rows = dict(re.findall(r"^\| (`.*?) \| (.*?) \|$", table, re.MULTILINE))
    (row,) = [rights for names, rights in rows.items() if f"`{method}`" in names]
    plain, _, with_expiry = row.partition(WITH_EXPIRY)
    return [name.lower() for name in re.findall(r"`(.*?)`", with_expiry if expiry else plain)]


@pytest.fixture
def admin(stack: StackEndpoints) -> Iterator[Any]:
    """The plain driver of a client that may do everything."""
    with ValkeyClient(stack.valkey_url) as client:
        yield client.client


#: For a script that the server has forgotten, a counter beyond 2^53, and a key of another type.
SELDOM = {"eval", "get", "exists"}


@pytest.mark.parametrize("name", _calls())
def test_a_role_with_just_the_named_rights_can_call_the_method(
    admin: Any, stack: StackEndpoints, name: str
) -> None:
    """With any one of the rights taken away it is told so, wherever that right is used."""
    method, call = _calls()[name]
    rights = _rights(method, expiry="expiry" in name)
    user, prefix = f"u{uuid4().hex}", f"test-{uuid4().hex}:"
    url = f"redis://{user}:pw@{stack.valkey_url.rpartition('@')[2]}"
    commands = ["+ping", *(f"+{one}" for one in rights)]
    admin.acl_setuser(user, enabled=True, passwords=["+pw"], keys=[f"{prefix}*"], commands=commands)
    refused = {}
    try:
        with ValkeyClient(url, key_prefix=prefix) as client:
            call(client)
            call(client)
            for right in rights:
                keys = list(admin.scan_iter(match=f"{prefix}*"))
                if keys:
                    admin.delete(*keys)
                admin.execute_command("ACL", "SETUSER", user, f"-{right}")
                refused[right] = _code(lambda: (call(client), call(client)))
                admin.execute_command("ACL", "SETUSER", user, f"+{right}")
    finally:
        admin.acl_deluser(user)

    # Inside a script the server says so without a code of its own.
    assert set(refused.values()) <= {"NOPERM", "ERR", None}
    assert refused[rights[0]] == "NOPERM"
    assert {right for right, code in refused.items() if code is None} <= SELDOM


def _code(call: Callable[[], object]) -> str | None:
    try:
        call()
    except ValkeyError as error:
        return error.code
    return None
