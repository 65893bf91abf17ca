"""A server that hangs up, and one that is not there: libpq does not always tell them apart."""

from __future__ import annotations

import socket
import threading

import pytest

from clients.errors import PostgresConnectionError
from clients.postgres_client import PostgresClient


def test_a_refusal_that_looks_like_a_hang_up_is_told_as_a_refusal() -> None:
    """Libpq says of one refusal in ten thousand that the server closed: the next try tells."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up_for_good() -> None:
            caller, _ = listener.accept()
            listener.close()
            caller.close()

        leaving = threading.Thread(target=hang_up_for_good)
        leaving.start()
        with pytest.raises(PostgresConnectionError, match="Connection refused"):
            PostgresClient(f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable")
        leaving.join(10)
