"""Connection URLs whose credentials may change while the application runs.

A rotation has two halves, one in Vault and one on the server, and a client can meet it between
them. ``UrlSource.candidates`` says what is tried then, for both clients.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import os
import time
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import (
    ClientError,
    ConfigurationError,
    VaultAuthenticationError,
    VaultConnectionError,
    VaultError,
)
from .locks import OwnedLock
from .secrecy import Masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Candidate", "Credential", "CredentialLife", "UrlSource", "hidden"]


@dataclass(frozen=True, slots=True)
class CredentialLife:
    """How old a credential is and how long it still works; never the credential itself.

    Args:
        age: Seconds since it was issued; where nobody tells that, since this client took it up.
        remaining: Seconds until it ends; None when it has no known end.
    """

    age: float
    remaining: float | None = None

    @classmethod
    def between(cls, issued_at: float, ends_at: float) -> CredentialLife:
        """Return the life, now, of what ends at *ends_at*, both on the monotonic clock.

        Args:
            issued_at: When it was issued.
            ends_at: When it ends; infinity when it has no known end.
        """
        now = time.monotonic()
        return cls(now - issued_at, None if math.isinf(ends_at) else max(0.0, ends_at - now))


class Credential(ABC):
    """A callable that gives a URL whose credential ends by itself, and sees to the next one."""

    @abstractmethod
    def __call__(self, *, use_cache: bool = True) -> str:
        """Return the URL; with ``use_cache=False`` because the server refused the last one."""

    @abstractmethod
    def generation(self) -> int:
        """Renew or replace the credential where its age demands it, and return its number."""

    @abstractmethod
    def suspect_revoked(self) -> None:
        """Note that the server behaves as if the credential were gone."""

    @abstractmethod
    def life(self) -> CredentialLife:
        """Return how old it is, and how long it still works."""


#: Seconds from a value's first refusal in which the other half of a rotation is waited for.
_ROTATION_PATIENCE = 1.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.25
#: Seconds between two logins with a value that was refused: servers lock accounts.
_REFUSED_PAUSE = 5.0
#: Different values that are tried in that time while none works: some sources never give the same.
_DIFFERENT_VALUES = 4
_REMEMBERED_REFUSALS = 8
#: The part of the time since a value's first refusal that lies between two questions for another:
#: all failing calls together ask rarer and rarer, and a mended source is heard at once at first.
_QUESTION_PART = 0.02
_LONGEST_QUESTION_PAUSE = 1.0
#: Seconds between two questions to a source that could not be asked while its last URL works.
_TROUBLE_PAUSE = 5.0

_log = logging.getLogger("clients.credentials")


class Candidate:
    """A URL that is worth a login.

    Args:
        url: The URL.
        asked_at: When its caller asked for one, on the monotonic clock.
        given_at: When the source gave it: before that for one that has worked until now.
        refusal: What the server said to it; whoever tried it sets this.
    """

    __slots__ = ("asked_at", "given_at", "masked", "refusal")

    def __init__(
        self, url: str | Masked, asked_at: float, given_at: float, refusal: str = "refused"
    ) -> None:
        #: The URL, for whoever keeps it.
        self.masked = url if isinstance(url, Masked) else Masked(url)
        self.asked_at = asked_at
        self.given_at = given_at
        self.refusal = refusal

    @property
    def url(self) -> str:
        """The URL."""
        return self.masked.reveal()


def hidden(url: Any) -> Any:
    """Return *url* as a local variable may hold it: masked, unless it is a callable or None."""
    return url if url is None or callable(url) or isinstance(url, Masked) else Masked(url)


@dataclass(slots=True)
class _Refusal:
    first: float
    last: float
    words: str


class UrlSource:
    """Gives the connection URL for each new physical connection.

    Args:
        name: The parameter's name, for messages.
        url: A URL, or a callable that returns one. It may take ``use_cache``: it is called with
            ``use_cache=False`` after the server refused what it returned before.
        describe: Names server and user of a URL, and nothing secret.
        unusable: The error to raise for a source that is none.
    """

    def __init__(
        self,
        name: str,
        url: object,
        *,
        describe: Callable[[str], str],
        unusable: type[ConfigurationError],
    ) -> None:
        url = hidden(url)
        if not callable(url) and not (isinstance(url, Masked) and isinstance(url.reveal(), str)):
            given = url.reveal() if isinstance(url, Masked) else url
            kind = type(given).__name__
            del given
            raise unusable(f"{name} must be a URL or a callable that returns one, not {kind}")
        self.name = name
        self._unusable = unusable
        #: Why the callable could not be asked the last time; None when it could.
        self.trouble: ClientError | None = None
        self._url: Masked | Callable[..., str | None] = url
        self._describe = describe
        self._leased = url if isinstance(url, Credential) else None
        self._takes_use_cache = callable(url) and _takes_use_cache(url)
        self._ask_again_at = 0.0
        #: Since when there is neither an answer nor a URL that works, and the next question.
        self._without_since: float | None = None
        self._without_until = 0.0
        #: How often it was asked past its cache, and when last.
        self._renewals = 0
        self._renewed_at = 0.0
        self._fresh: Masked | None = None
        self._refusals: dict[Masked, _Refusal] = {}
        #: The URL that works as far as is known, and the last one that did.
        self._working: Masked | None = None
        self._accepted = Candidate("", 0.0, 0.0)
        self._since = self._accepted_at = time.monotonic()
        self._generation = 0
        self._doubt_again_at = 0.0
        self.renew_locks()
        _sources.add(self)

    def current(self) -> str | None:
        """Return the URL; None when a callable says that there is none.

        That Vault cannot be asked is no reason to give up a credential that works.

        Raises:
            ClientError: The callable failed, and no URL is known to work.
        """
        url = self._current()
        return None if url is None else url.reveal()

    def _current(self) -> Masked | None:
        if isinstance(self._url, Masked):
            return self._url
        # Once: another thread may be answered meanwhile.
        working, trouble = self._working, self.trouble
        if trouble is not None:
            if working is None and not self._may_ask_without():
                raise copy.copy(trouble)
            if working is not None and time.monotonic() < self._ask_again_at:
                return working
        try:
            url = hidden(self._url())
        except VaultError as error:
            if working is None:
                self.trouble = _without_frames(error)
                raise
            if not isinstance(error, VaultConnectionError | VaultAuthenticationError):
                raise
            if self.trouble is None:
                _log.warning("%s stays as it is for now: %s", self.name, error)
            self.trouble = _without_frames(error)
            self._ask_again_at = time.monotonic() + _TROUBLE_PAUSE
            return working
        self.trouble, self._without_since = None, None
        return None if url is None else self._checked(url)

    def candidates(self, *, patient: bool) -> Iterator[Candidate]:
        """Yield what is worth a login; the next one is asked for after a refusal.

        First comes what the callable returns, then what it returns afresh, then what has worked
        so far, for the server may be the one that is behind. No value comes twice in five
        seconds, except when the server has changed between two refusals. Where there is nothing
        new, the callable is asked again for a second: by one of all the threads that wait.

        Args:
            patient: Whether to wait for the other half of a rotation. The constructor does not:
                there a refusal is the real reason.

        Raises:
            ConfigurationError: The callable returned None.
            ClientError: The callable failed, and no URL is known to work.
        """
        asked_at, renewals = time.monotonic(), self._renewals
        url = self._checked(self._current())
        if url not in self._refusals and self._worth_a_login(url):
            yield from self._try(url, asked_at)
        asked_at = time.monotonic()
        newest = self._newest(renewals, url, patient=patient) or url
        yield from self._newest_then_working(newest, asked_at)
        # Bounded for this call as well: a source may give another value each time.
        # Pauses are counted as well as timed: a program's clock may stand still.
        pause, ends_at, paused = _FIRST_PAUSE, time.monotonic() + _ROTATION_PATIENCE, 0.0
        while patient and self._half_rotated(newest) and time.monotonic() < ends_at:
            if paused >= _ROTATION_PATIENCE:
                return
            asked_at, renewals = time.monotonic(), self._renewals
            time.sleep(pause)
            paused += pause
            pause = min(2 * pause, _LONGEST_PAUSE)
            newest = self._newest(renewals, newest, patient=False) or newest
            yield from self._newest_then_working(newest, asked_at)

    def accepted(self, candidate: Candidate) -> None:
        """Note that the server took *candidate*."""
        url = candidate.masked
        with self._lock:
            self._refusals.pop(url, None)
            self._accepted_at = time.monotonic()
            before = self._accepted
            if candidate.given_at < before.given_at:
                return  # overtaken by a newer one: no rotation back
            self._working, self._accepted = url, candidate
            if before.masked == url:
                return
            self._since = time.monotonic()
            if not before.url or self._leased is not None:
                return  # the first one; a lease tells of its changes itself
            if self._describe(before.url) != self._describe(url.reveal()):
                self._generation += 1
        where = self._describe(url.reveal())
        _log.info("%s was rotated: new connections go to %s", self.name, where)

    def refusal(self) -> str:
        """Return what to say when no value was worth a login, or no further one."""
        with self._lock:
            last = max(self._refusals.values(), key=lambda one: one.last, default=None)
        words = "there is no URL"
        if last is not None:
            words = (
                f"{last.words}; the credential was refused {time.monotonic() - last.last:.1f} s "
                f"ago and has not changed since, so it is tried every {_REFUSED_PAUSE:g} s at most"
            )
        trouble = self.trouble
        return words if trouble is None else f"{words}; no other can be had: {trouble}"

    def generation(self) -> int:
        """Return a number that grows when connections made before are to be given up.

        A credential that ends by itself is renewed or replaced here where its age demands it.
        """
        if self._leased is None:
            return self._generation
        return self._leased.generation()

    def suspect_revoked(self) -> None:
        """Note that the server behaves as if the credential were gone."""
        if self._leased is not None:
            self._leased.suspect_revoked()
            return
        # The server lets the sessions of a dropped user go on without rights. Or a statement is
        # denied for good: then new sessions every few seconds do no harm.
        now = time.monotonic()
        with self._lock:
            if now >= self._doubt_again_at:
                self._doubt_again_at = now + _REFUSED_PAUSE
                self._generation += 1

    def unreachable(self) -> None:
        """Note that no server answers where the URL leads."""
        if self._leased is not None:
            self._leased.suspect_revoked()

    def life(self) -> CredentialLife:
        """Return how old the credential in use is, and how long it still works."""
        if self._leased is not None:
            return self._leased.life()
        return CredentialLife(time.monotonic() - self._since)

    def renew_locks(self) -> None:
        """Make locks that nobody holds, for a forked child: the holder's thread is not in it."""
        self._lock = OwnedLock()
        self._asking = OwnedLock()

    def _newest_then_working(self, newest: Masked, asked_at: float) -> Iterator[Candidate]:
        if self._worth_a_login(newest):
            yield from self._try(newest, asked_at)
        # Another thread may have found it in the meantime.
        with self._lock:
            working, given_at = self._working, self._accepted.given_at
        if working is not None and self._worth_a_login(working):
            yield from self._try(working, asked_at, given_at)
            # It worked until now: the server has changed after it refused the newest.
            yield from self._try(newest, asked_at)

    def _try(
        self, url: Masked, asked_at: float, given_at: float | None = None
    ) -> Iterator[Candidate]:
        candidate = Candidate(url, asked_at, asked_at if given_at is None else given_at)
        started = time.monotonic()
        yield candidate
        # Whoever asks for the next one was refused.
        now = time.monotonic()
        with self._lock:
            if self._accepted.masked == url and self._accepted_at > started:
                return  # another thread's login was later: the server has changed since
            known = self._refusals.pop(url, None)
            first = now if known is None else known.first
            self._refusals[url] = _Refusal(first, now, candidate.refusal)
            if len(self._refusals) > _REMEMBERED_REFUSALS:
                del self._refusals[next(iter(self._refusals))]
            if self._working == url:
                self._working = None

    def _checked(self, url: Any) -> Masked:
        url = hidden(url)
        if isinstance(url, Masked) and isinstance(url.reveal(), str):
            return url
        given = "None" if url is None else type(url.reveal()).__name__
        raise self._unusable(f"the callable {self.name} returned {given}, and not a URL")

    def _newest(self, renewals: int, refused: Masked, *, patient: bool) -> Masked | None:
        """Ask the callable past its cache: one thread does for all that were refused with it."""
        if not callable(self._url):
            return None
        with self._asking:
            if self._renewals == renewals and self._may_ask(refused, patient=patient):
                options = {"use_cache": False} if self._takes_use_cache else {}
                try:
                    self._fresh = self._checked(self._url(**options))
                    self.trouble = None
                except ClientError as error:
                    self.trouble = _without_frames(error)
                self._renewals += 1
                self._renewed_at = time.monotonic()
            return self._fresh

    def _may_ask_without(self) -> bool:
        """Whether it is this thread's turn to ask a source that could not be asked a moment ago."""
        now = time.monotonic()
        with self._lock:
            if self._without_since is None:
                self._without_since = self._without_until = now
            if now < self._without_until:
                return False
            self._without_until = now + _question_pause(now - self._without_since)
            return True

    def _may_ask(self, refused: Masked, *, patient: bool) -> bool:
        """Wait until it is time for another question; False when there is none to wait for."""
        with self._lock:
            known = self._refusals.get(refused)
        now = time.monotonic()
        if known is None or not patient:
            return True
        pause = _question_pause(now - known.first)
        if self._renewed_at + pause > now:
            if self._working is not None:
                return False  # a connection can be had at once
            time.sleep(self._renewed_at + pause - now)
        return True

    def _worth_a_login(self, url: Masked) -> bool:
        now = time.monotonic()
        with self._lock:
            known = self._refusals.get(url)
            lately = sum(
                one.last > self._accepted_at and now - one.last < _REFUSED_PAUSE
                for one in self._refusals.values()
            )
            if known is not None:
                if now - known.last < _REFUSED_PAUSE:
                    return False
                known.last = now  # this thread's to try, for all that wait
        return known is not None or lately < _DIFFERENT_VALUES

    def _half_rotated(self, newest: Masked) -> bool:
        with self._lock:
            known = self._refusals.get(newest)
            if known is None:
                return self._accepted.masked == newest  # another thread's login was later
        return callable(self._url) and time.monotonic() - known.first < _ROTATION_PATIENCE


def _question_pause(lasting: float) -> float:
    return min(_LONGEST_QUESTION_PAUSE, _QUESTION_PART * lasting)


def _without_frames(error: ClientError) -> ClientError:
    # A copy has neither them nor a cause, which would keep the caller's objects alive.
    return copy.copy(error)


def _takes_use_cache(function: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "use_cache" or p.kind is p.VAR_KEYWORD for p in parameters)


_sources: weakref.WeakSet[UrlSource] = weakref.WeakSet()


def _renew_locks() -> None:
    for source in list(_sources):
        source.renew_locks()


os.register_at_fork(after_in_child=_renew_locks)
