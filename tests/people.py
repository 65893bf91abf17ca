"""Users that no other test has, for whoever needs one or two."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest


@pytest.fixture
def user() -> UUID:
    """A user without rows."""
    return uuid4()


@pytest.fixture
def ada() -> UUID:
    """A user without rows."""
    return uuid4()


@pytest.fixture
def bob() -> UUID:
    """Another user without rows."""
    return uuid4()
