"""A store, a server and a clock, of which a credential's client sees nothing but answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from clients._shared import rotating_url
from clients._shared.rotating_url import UrlSource
from clients.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Clock", "World", "clock", "world"]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.at: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass, and do what is due by then."""
        self.now += seconds
        for moment, act in list(self.at):
            if moment <= self.now:
                self.at.remove((moment, act))
                act()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    both = SimpleNamespace(monotonic=fake.monotonic, sleep=fake.sleep)
    monkeypatch.setattr(rotating_url, "time", both)
    return fake


class World:
    """A store with a cache before it, and a server that takes one password."""

    def __init__(self, clock: Clock, password: str = "old") -> None:
        self.clock = clock
        self.cached = self.stored = self.valid = password
        self.asked = self.asked_afresh = 0
        self.down: Exception | None = None
        self.tried: list[str] = []
        self.source = UrlSource(
            "connection_url", self.url, describe=lambda url: url[0], unusable=ConfigurationError
        )

    def url(self, *, use_cache: bool = True) -> str:
        """Return the cached value, or read the stored one into the cache first."""
        self.asked += 1
        if self.down is not None:
            raise self.down
        if not use_cache:
            self.asked_afresh += 1
            self.cached = self.stored
        return self.cached

    def log_in(self, *, patient: bool = True) -> bool:
        """Connect once, as the clients do; note what was tried."""
        self.tried = []
        for candidate in self.source.candidates(patient=patient):
            self.tried.append(candidate.url)
            if candidate.url == self.valid:
                self.source.accepted(candidate)
                return True
            candidate.refusal = f"no to {candidate.url}"
        return False


@pytest.fixture
def world(clock: Clock) -> World:
    made = World(clock)
    assert made.log_in(patient=False)
    return made
