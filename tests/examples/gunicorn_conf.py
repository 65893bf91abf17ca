"""gunicorn with ``preload_app``: the application is made once, before the workers are forked.

The clients notice the fork: each worker opens connections of its own, and none is shared. There is
nothing to do in ``post_fork``. A wrong password or address ends the master at its start, with the
reason, and no worker is started.
"""

from __future__ import annotations

from typing import Any

wsgi_app = "tests.examples.flask_app:create_app()"
preload_app = True
workers = 2
threads = 4


def worker_exit(_server: Any, worker: Any) -> None:
    """Close the clients of a worker that ends, so that the servers need not find out."""
    worker.wsgi.extensions["clients"].close()


def on_exit(server: Any) -> None:
    """Close the master's clients: with ``VAULT_ROLE_ID`` this revokes the token of its login."""
    server.app.wsgi().extensions["clients"].close()
