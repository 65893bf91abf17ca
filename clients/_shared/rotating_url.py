"""Connection URLs whose credentials may change while the application runs.

A rotation has two halves, one in Vault and one on the server, and a client can meet it between
them. ``UrlSource.candidates`` says what is tried then, for both clients.
"""

from __future__ import annotations

import inspect
import logging
import time
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import (
    ClientError,
    ConfigurationError,
    VaultAuthenticationError,
    VaultConnectionError,
    VaultError,
)
from .credential_life import Credential, CredentialLife
from .fork import on_fork
from .locks import OwnedLock
from .secrecy import Masked, MaskedCallable
from .single_flight import SingleFlight, fresh_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Candidate", "UrlSource", "called_past_cache", "hidden", "is_past_cache"]

#: Seconds from a value's first refusal in which to wait for the other half of a rotation.
_ROTATION_PATIENCE = 1.0
_MIN_PAUSE = 0.05
_MAX_PAUSE = 0.25
#: Seconds between two logins with a value that was refused: servers lock accounts.
_REFUSED_PAUSE = 5.0
#: Different values that are tried in that time while none works: some sources never give the same.
_MAX_VALUES = 4
_MAX_REFUSALS = 8
#: The fraction of the time since a value's first refusal after which the callable is called again:
#: the longer an outage lasts, the fewer calls it gets from all failing threads together.
_POLL_FRACTION = 0.02
_MAX_POLL_PAUSE = 1.0
#: Seconds between two calls of a callable that failed, while its last URL works.
_RETRY_PAUSE = 5.0

_log = logging.getLogger("clients.credentials")

_past_cache: ContextVar[bool] = ContextVar("failfast_past_cache", default=False)
#: The source whose callable runs.
_called_source: ContextVar[UrlSource | None] = ContextVar("failfast_called_source", default=None)


def is_past_cache() -> bool:
    """Return whether a read has to bypass every cache.

    So it is in a callable that is called because the server refused the value that it gave
    before: also in one that takes no ``use_cache``, as ``lambda: vault.get_database_url("my/db")``.
    """
    return _past_cache.get()


def called_past_cache(function: Callable[..., Any]) -> Any:
    """Return what a callable returns now; secrets that it reads are read past every cache.

    Args:
        function: The callable; where it takes ``use_cache``, it gets ``use_cache=False``.
    """
    options = {"use_cache": False} if _takes_use_cache(function) else {}
    context = copy_context()
    context.run(_past_cache.set, True)  # noqa: FBT003 - a context variable's value
    return context.run(function, **options)


class Candidate:
    """A URL to log in with.

    Args:
        url: The URL.
        requested_at: When its caller needed one, on the monotonic clock.
        given_at: When the source gave it: before that for one that has worked until now.
        refusal: What the server said to it; set by the caller that tried it.
    """

    __slots__ = ("given_at", "masked", "refusal", "requested_at")

    def __init__(
        self, url: str | Masked, requested_at: float, given_at: float, refusal: str = "refused"
    ) -> None:
        #: The URL, for the caller that keeps it.
        self.masked = url if isinstance(url, Masked) else Masked(url)
        self.requested_at = requested_at
        self.given_at = given_at
        self.refusal = refusal

    @property
    def url(self) -> str:
        """The URL."""
        return self.masked.reveal()


def hidden(url: Any) -> Any:
    """Return *url* as a local variable may hold it: masked, unless it is None."""
    if url is None or isinstance(url, Masked | MaskedCallable | Credential):
        return url
    return MaskedCallable(url) if callable(url) else Masked(url)


@dataclass(slots=True)
class _Refusal:
    first: float
    last: float
    words: str


class UrlSource:
    """Gives the connection URL for each new physical connection.

    Args:
        name: The parameter's name, for messages.
        url: A URL, or a callable that returns one. After the server refused what it returned, it
            is called again, and secrets that it reads then are read past the cache; where it takes
            ``use_cache``, it gets ``use_cache=False``.
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
            kind = type(url.reveal() if isinstance(url, Masked) else url).__name__
            raise unusable(f"{name} must be a URL or a callable that returns one, not {kind}")
        self.name = name
        self._unusable = unusable
        #: Why the last call of the callable failed; None when it did not.
        self.trouble: ClientError | None = None
        self._url: Masked | Callable[..., str | None] = url
        self._describe = describe
        self._leased = url if isinstance(url, Credential) else None
        self._takes_use_cache = callable(url) and _takes_use_cache(url)
        self._next_retry_at = 0.0
        #: Since when the callable fails and no URL works, and when to call it again.
        self._outage_began: float | None = None
        self._next_poll_at = 0.0
        #: How often it was called for a fresh value, and when last.
        self._refreshes = 0
        self._refreshed_at = 0.0
        self._fresh: Masked | None = None
        self._refusals: dict[Masked, _Refusal] = {}
        #: The URL that works as far as is known, and the last one that did.
        self._working: Masked | None = None
        self._accepted = Candidate("", 0.0, 0.0)
        self._in_use_since = self._last_accepted_at = time.monotonic()
        self._generation = self._rotations = 0
        self._next_suspicion_at = 0.0
        #: One call for a fresh value serves all threads that were refused with the same one.
        self._refresh: SingleFlight[int, Masked | None] = SingleFlight(shared=Exception)
        self._renew_lock()
        on_fork(self._renew_lock)

    def current(self) -> str | None:
        """Return the URL; None when a callable says that there is none.

        While the callable fails because Vault is away, a URL that works stays in use.

        Raises:
            ClientError: The callable failed, and no URL is known to work.
        """
        url = self._current()
        return None if url is None else url.reveal()

    def _current(self) -> Masked | None:
        if isinstance(self._url, Masked):
            return self._url
        # Read once: a call of another thread may end in between.
        working, trouble = self._working, self.trouble
        if trouble is not None:
            if working is None and not self._may_poll():
                raise fresh_copy(trouble)
            if working is not None and time.monotonic() < self._next_retry_at:
                return working
        try:
            url = hidden(self._called())
        except VaultError as error:
            if working is None:
                self.trouble = fresh_copy(error)
                raise
            if not isinstance(error, VaultConnectionError | VaultAuthenticationError):
                raise
            if self.trouble is None:
                _log.warning("%s stays as it is for now: %s", self.name, error)
            self.trouble = fresh_copy(error)
            self._next_retry_at = time.monotonic() + _RETRY_PAUSE
            return working
        self.trouble, self._outage_began = None, None
        return None if url is None else self._checked(url)

    def candidates(self, *, patient: bool) -> Iterator[Candidate]:
        """Yield the URLs to log in with; the next one is requested after a refusal.

        First comes what the callable returns, then a fresh value from it, then what has worked
        so far, for the server may be the one that is behind. No value comes twice in five
        seconds, except when the server has changed between two refusals. Where there is nothing
        new, one of the waiting threads calls the callable again, for a second.

        Args:
            patient: Whether to wait for the other half of a rotation. The constructor does not:
                there a refusal is the real reason.

        Raises:
            ConfigurationError: The callable returned None.
            ClientError: The callable failed, and no URL is known to work.
        """
        requested_at, refreshes = time.monotonic(), self._refreshes
        url = self._checked(self._current())
        if url not in self._refusals and self._worth_a_login(url):
            yield from self._try(url, requested_at)
        requested_at = time.monotonic()
        newest = self._newest(refreshes, url, patient=patient) or url
        yield from self._newest_then_working(newest, requested_at)
        # Bounded for this call as well: a source may give another value each time.
        # Pauses are counted as well as timed: a program's clock may stand still.
        pause, ends_at, paused = _MIN_PAUSE, time.monotonic() + _ROTATION_PATIENCE, 0.0
        while patient and self._half_rotated(newest) and time.monotonic() < ends_at:
            if paused >= _ROTATION_PATIENCE:
                return
            requested_at, refreshes = time.monotonic(), self._refreshes
            time.sleep(pause)
            paused += pause
            pause = min(2 * pause, _MAX_PAUSE)
            newest = self._newest(refreshes, newest, patient=False) or newest
            yield from self._newest_then_working(newest, requested_at)

    def accepted(self, candidate: Candidate) -> None:
        """Note that the server took *candidate*."""
        url = candidate.masked
        with self._lock:
            self._refusals.pop(url, None)
            self._last_accepted_at = time.monotonic()
            before = self._accepted
            if candidate.given_at < before.given_at:
                return  # a newer one was accepted meanwhile, and stays
            self._working, self._accepted = url, candidate
            if before.masked == url:
                return
            self._in_use_since = time.monotonic()
            if not before.url or self._leased is not None:
                return  # the first one; a lease tells of its changes itself
            self._rotations += 1
            if self._describe(before.url) != self._describe(url.reveal()):
                self._generation += 1
        where = self._describe(url.reveal())
        _log.info("%s was rotated: new connections go to %s", self.name, where)

    def refusal(self) -> str:
        """Return the words for an error when there is no URL to try, or no further one."""
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
        """Return a number that grows when older connections have to be replaced.

        A credential that ends by itself is renewed or replaced here where its age demands it.
        """
        if self._leased is None:
            return self._generation
        return self._leased.generation()

    @property
    def rotations(self) -> int:
        """How often the credential in use has been replaced."""
        return self._rotations if self._leased is None else self._leased.rotations

    def suspect_revoked(self) -> None:
        """Note that the server behaves as if the credential were gone."""
        if self._leased is not None:
            self._leased.suspect_revoked()
            return
        # The server lets the sessions of a dropped user go on without rights. Or a statement is
        # denied for good: then new sessions every few seconds do no harm.
        now = time.monotonic()
        with self._lock:
            if now >= self._next_suspicion_at:
                self._next_suspicion_at = now + _REFUSED_PAUSE
                self._generation += 1

    def unreachable(self) -> None:
        """Note that no server answers where the URL leads."""
        if self._leased is not None:
            self._leased.suspect_revoked()

    def life(self) -> CredentialLife:
        """Return how old the credential in use is, and how long it still works."""
        if self._leased is not None:
            return self._leased.life()
        return CredentialLife(time.monotonic() - self._in_use_since)

    def _renew_lock(self) -> None:
        self._lock = OwnedLock()

    def _newest_then_working(self, newest: Masked, requested_at: float) -> Iterator[Candidate]:
        if self._worth_a_login(newest):
            yield from self._try(newest, requested_at)
        # Another thread may have found it in the meantime.
        with self._lock:
            working, given_at = self._working, self._accepted.given_at
        if working is not None and self._worth_a_login(working):
            yield from self._try(working, requested_at, given_at)
            # It worked until now: the server has changed after it refused the newest.
            yield from self._try(newest, requested_at)

    def _try(
        self, url: Masked, requested_at: float, given_at: float | None = None
    ) -> Iterator[Candidate]:
        candidate = Candidate(url, requested_at, requested_at if given_at is None else given_at)
        started = time.monotonic()
        yield candidate
        # The next one is requested only after a refusal.
        now = time.monotonic()
        with self._lock:
            if self._accepted.masked == url and self._last_accepted_at > started:
                return  # another thread's login was later: the server has changed since
            known = self._refusals.pop(url, None)
            first = now if known is None else known.first
            self._refusals[url] = _Refusal(first, now, candidate.refusal)
            if len(self._refusals) > _MAX_REFUSALS:
                del self._refusals[next(iter(self._refusals))]
            if self._working == url:
                self._working = None

    def _checked(self, url: Any) -> Masked:
        masked = url if isinstance(url, Masked) else Masked(url)
        del url  # error reporters collect local variables
        if isinstance(masked.reveal(), str):
            return masked
        given = "None" if masked.reveal() is None else type(masked.reveal()).__name__
        raise self._unusable(f"the callable {self.name} returned {given}, not a URL")

    def _newest(self, refreshes: int, refused: Masked, *, patient: bool) -> Masked | None:
        """Call the callable for a fresh value: one thread does for all that were refused."""
        if not callable(self._url):
            return None
        return self._refresh.run(
            refreshes, lambda: self._refreshed(refreshes, refused, patient=patient)
        )

    def _refreshed(self, refreshes: int, refused: Masked, *, patient: bool) -> Masked | None:
        # Again: another thread's call may just have ended.
        if self._refreshes == refreshes and self._may_refresh(refused, patient=patient):
            try:
                self._fresh = self._checked(self._called(past_cache=True))
                self.trouble = None
            except ClientError as error:
                self.trouble = fresh_copy(error)
            self._refreshes += 1
            self._refreshed_at = time.monotonic()
        return self._fresh

    def _called(self, *, past_cache: bool = False) -> str | None:
        if _called_source.get() is self:
            raise self._unusable(
                f"the callable {self.name} needs a new connection of the client that it gives the "
                "URL for: let it get the URL without that client"
            )
        options = {"use_cache": False} if past_cache and self._takes_use_cache else {}
        # In a context of its own: an interrupt cannot leave the variables set.
        context = copy_context()
        context.run(_called_source.set, self)
        context.run(_past_cache.set, past_cache)
        return context.run(cast("Callable[..., str | None]", self._url), **options)

    def _may_poll(self) -> bool:
        """Whether it is this thread's turn to call a source that failed a moment ago."""
        now = time.monotonic()
        with self._lock:
            if self._outage_began is None:
                self._outage_began = self._next_poll_at = now
            if now < self._next_poll_at:
                return False
            self._next_poll_at = now + _poll_pause(now - self._outage_began)
            return True

    def _may_refresh(self, refused: Masked, *, patient: bool) -> bool:
        """Wait until the callable may be called again; return False where another URL works."""
        with self._lock:
            known = self._refusals.get(refused)
        now = time.monotonic()
        if known is None or not patient:
            return True
        pause = _poll_pause(now - known.first)
        if self._refreshed_at + pause > now:
            if self._working is not None:
                return False  # a connection can be had immediately
            time.sleep(self._refreshed_at + pause - now)
        return True

    def _worth_a_login(self, url: Masked) -> bool:
        now = time.monotonic()
        with self._lock:
            known = self._refusals.get(url)
            lately = sum(
                one.last > self._last_accepted_at and now - one.last < _REFUSED_PAUSE
                for one in self._refusals.values()
            )
            if known is not None:
                if now - known.last < _REFUSED_PAUSE:
                    return False
                known.last = now  # this thread tries it, for all that wait
        return known is not None or lately < _MAX_VALUES

    def _half_rotated(self, newest: Masked) -> bool:
        with self._lock:
            known = self._refusals.get(newest)
            if known is None:
                return self._accepted.masked == newest  # another thread's login was later
        return callable(self._url) and time.monotonic() - known.first < _ROTATION_PATIENCE


def _poll_pause(lasting: float) -> float:
    return min(_MAX_POLL_PAUSE, _POLL_FRACTION * lasting)


def _takes_use_cache(function: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "use_cache" or p.kind is p.VAR_KEYWORD for p in parameters)
