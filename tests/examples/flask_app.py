"""Flask: the user of a request, and probes that tell a busy service from a dead one.

``gunicorn -c tests/examples/gunicorn_conf.py`` serves it, and ``kubernetes.yaml`` runs that in a
cluster.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Flask, abort, current_app, g, request

from clients import Clients, SessionStore, build_clients, user_context

__all__ = ["create_app"]

pages = Blueprint("pages", __name__)
probes = Blueprint("probes", __name__)


def create_app(clients: Clients | None = None) -> Flask:
    """Return the application; it makes clients of its own when it is given none."""
    app = Flask(__name__)
    app.extensions["clients"] = build_clients() if clients is None else clients
    app.register_blueprint(pages)
    app.register_blueprint(probes)
    return app


def services() -> Clients:
    """Return the application's clients."""
    found: Clients = current_app.extensions["clients"]
    return found


@pages.before_request
def enter_user() -> None:
    """Make the session's user the current user; a request runs in one thread to its teardown."""
    valkey = services().valkey
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    session = SessionStore(valkey).read(token) if token else None
    if session is None:
        abort(401)
    if not valkey.rate_limit(f"requests:{session.user_id}", 100, 60).allowed:
        abort(429)
    g.scope = ExitStack()
    g.scope.enter_context(user_context(session.user_id))
    g.user_id = session.user_id


@pages.teardown_request
def leave_user(_error: BaseException | None) -> None:
    """End the block after the response, and after any error."""
    if "scope" in g:
        g.pop("scope").close()


@pages.get("/contacts")
def contacts() -> list[str]:
    """Return the names of the user's contacts: the query names no user."""
    rows = services().postgres.execute("SELECT name FROM contacts ORDER BY name")
    return [row["name"] for row in rows]


@pages.post("/contacts")
def add_contact() -> tuple[dict[str, Any], int]:
    """Store a contact of the user."""
    name = request.form.get("name") or abort(400)
    query = "INSERT INTO contacts (user_id, name) VALUES (%s, %s) RETURNING id, name"
    (contact,) = services().postgres.execute(query, (g.user_id, name), expect=1)
    return contact, 201


@probes.get("/live")
def live() -> str:
    """Answer without any server: a restart of this process would not bring one back."""
    return "alive"


@probes.get("/ready")
def ready() -> tuple[dict[str, str], int]:
    """Say whether requests would succeed; a pool whose connections are all in use is well.

    Without Vault the clients go on with the credentials that they have, so it does not count.
    """
    report = services().health_check()
    counted = (report.postgres, report.valkey)
    answer = {one.service: "healthy" if one.healthy else str(one.error) for one in counted}
    return answer, 200 if all(one.healthy for one in counted) else 503
