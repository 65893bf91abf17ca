"""An engine over the test's own client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from clients.postgres_client import PostgresClient


@pytest.fixture
def engine(db: PostgresClient) -> Engine:
    """An engine whose transactions are the client's blocks."""
    # SQLAlchemy is imported by the tests that use it.
    from clients.sqlalchemy_adapter import create_engine  # noqa: PLC0415 - see above

    return create_engine(db)
