"""Every public method of the Valkey client that talks to the server, each as one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clients.valkey_client import SessionStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.valkey_client import ValkeyClient

__all__ = ["METHODS", "OPERATIONS"]

#: Methods of the client, by name; each touches keys of its own. Those that change something come
#: back to the same state, so that they can be called again.
OPERATIONS: dict[str, Callable[[ValkeyClient], Any]] = {
    "get": lambda c: c.get("a"),
    "get with expiry": lambda c: c.get("a", 60),
    "set": lambda c: c.set("a", "A"),
    "set if absent": lambda c: c.set("a", "A", 60, only_if_absent=True),
    "delete": lambda c: c.delete("gone"),
    "incr": lambda c: c.incr("n"),
    "incr with expiry": lambda c: c.incr("m", 1, 60),
    "expire": lambda c: c.expire("a", 60),
    "ttl": lambda c: c.ttl("a"),
    "exists": lambda c: c.exists("a"),
    "get_json": lambda c: c.get_json("j"),
    "set_json": lambda c: c.set_json("j", {"a": 1}),
    "get_many": lambda c: c.get_many(["a", "b", "missing"]),
    "set_many": lambda c: c.set_many({"a": "A", "b": "B"}),
    "set_many with expiry": lambda c: c.set_many({"a": "A", "b": "B"}, 60),
    "delete_many": lambda c: c.delete_many(["gone", "lost"]),
    "pipeline": lambda c: c.pipeline().get("a").incr("n").execute(),
    "rate_limit": lambda c: c.rate_limit("r", 10**6, 1.0),
    "cached": lambda c: (c.delete_many(["c", "lock:{c}"]), c.cached("c", 60, lambda: 5)),
    "health_check": lambda c: c.health_check(),
    "server_version": lambda c: c.server_version(),
}
_SESSIONS: dict[str, Callable[[ValkeyClient], Any]] = {
    "sessions.create": lambda c: SessionStore(c).create("u", {"a": 1}),
    "sessions.read": lambda c: SessionStore(c).read("A" * 65),
    "sessions.update": lambda c: SessionStore(c).update("A" * 65, {"b": 2}),
    "sessions.replace": lambda c: SessionStore(c).replace("A" * 65, [3]),
    "sessions.revoke": lambda c: SessionStore(c).revoke("A" * 65),
    "sessions.list": lambda c: SessionStore(c).list("u"),
    "sessions.revoke_all": lambda c: SessionStore(c).revoke_all("u"),
}
METHODS = OPERATIONS | _SESSIONS
