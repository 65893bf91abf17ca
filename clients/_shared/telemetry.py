"""OpenTelemetry spans and metrics of the three clients, under the stable names where there are any.

A provider can only be set by a program that has imported OpenTelemetry, so nothing here imports it
before that: without the package, and without a provider, a call costs two look-ups in a dict.

The names and attributes are those of the semantic conventions for database clients:
https://opentelemetry.io/docs/specs/semconv/database/. No key, value, parameter, secret path or
message of an error is in any of them.
"""

from __future__ import annotations

import sys
import time
import weakref
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .locks import OwnedLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .credential_life import CredentialLife

    Attributes = Mapping[str, str | int | float | bool]

__all__ = [
    "Call",
    "Reading",
    "Telemetry",
    "credential_readings",
    "failure_attributes",
    "is_enabled",
    "is_metered",
    "pool_readings",
    "suppressed",
]

_SCOPE = "failfast-clients"
_DURATION = "db.client.operation.duration"
#: Seconds, as the convention for that histogram says.
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_POOL = "db.client.connection."
# The instrumentations of psycopg, redis-py and requests record nothing while this is set in the
# context; the key is the one that all of them know.
_SUPPRESS = "suppress_instrumentation"

# Private names, pinned by tests/unit/test_telemetry_contract.py: the public functions cost two
# microseconds without a provider, which is more than one percent of a call.
_TRACE, _TRACER_PROVIDER = "opentelemetry.trace", "_TRACER_PROVIDER"
_METRICS, _METER_PROVIDER = "opentelemetry.metrics._internal", "_METER_PROVIDER"

#: What is read when metrics are collected: name, kind of instrument, unit, description.
_READ = (
    (f"{_POOL}count", "up_down_counter", "{connection}", "Connections by state"),
    (f"{_POOL}idle.max", "up_down_counter", "{connection}", "Largest number of idle connections"),
    (f"{_POOL}idle.min", "up_down_counter", "{connection}", "Idle connections that are kept open"),
    (f"{_POOL}max", "up_down_counter", "{connection}", "Largest number of connections"),
    (f"{_POOL}pending_requests", "up_down_counter", "{request}", "Callers that wait for one"),
    (f"{_POOL}timeouts", "counter", "{timeout}", "Callers that got none in time"),
    ("failfast.credential.remaining", "gauge", "s", "How long the credential still works"),
    ("failfast.credential.rotations", "counter", "{rotation}", "Credentials taken up"),
    ("failfast.vault.cache.hits", "counter", "{read}", "Reads answered by the cache"),
    ("failfast.vault.cache.misses", "counter", "{read}", "Reads that went to Vault"),
    ("failfast.vault.cache.coalesced", "counter", "{read}", "Reads that waited for another one"),
)
#: What is measured as it happens, all in seconds.
_MEASURED = (
    (_DURATION, "Duration of one operation"),
    (f"{_POOL}create_time", "Time to make a connection"),
    (f"{_POOL}wait_time", "Time to obtain a connection from the pool"),
    (f"{_POOL}use_time", "Time between borrowing a connection and returning it"),
)


def is_enabled() -> bool:
    """Return whether a call that begins now is recorded: by a meter, or by a span."""
    # All in one, and without getattr(), which costs as much as the rest: each call of the three
    # clients comes by here.
    modules = sys.modules
    try:
        metrics = modules.get(_METRICS)
        if metrics is not None and metrics._METER_PROVIDER is not None:  # noqa: SLF001 - see _METRICS
            return True
        trace = modules.get(_TRACE)
        if trace is None or (provider := trace._TRACER_PROVIDER) is None:  # noqa: SLF001 - likewise
            return False
    except AttributeError:  # another thread imports it just now
        return False
    tracing = _known["tracing"]
    if tracing is None or tracing.provider is not provider:
        tracing = _made("tracing", provider, _Tracing)
    return not tracing.drops_all()


def is_metered() -> bool:
    """Return whether a meter provider is set."""
    return getattr(sys.modules.get(_METRICS), _METER_PROVIDER, None) is not None


def _tracer_provider() -> Any:
    return getattr(sys.modules.get(_TRACE), _TRACER_PROVIDER, None)


def _meter_provider() -> Any:
    return getattr(sys.modules.get(_METRICS), _METER_PROVIDER, None)


class Reading(NamedTuple):
    """One value that is read when metrics are collected.

    Args:
        name: The instrument.
        value: What it shows.
        attributes: Beside those of the client.
    """

    name: str
    value: float
    attributes: Attributes = MappingProxyType({})


def pool_readings(name: str, stats: Mapping[str, int], min_size: int = 0) -> list[Reading]:
    """Return what is collected of one pool.

    Args:
        name: The pool's name.
        stats: Its numbers; none of them before it has any.
        min_size: How many idle connections it keeps.
    """
    if not stats:
        return []
    pool = {f"{_POOL}pool.name": name}
    return [
        Reading(f"{_POOL}count", stats["idle"], {**pool, f"{_POOL}state": "idle"}),
        Reading(f"{_POOL}count", stats["in_use"], {**pool, f"{_POOL}state": "used"}),
        Reading(f"{_POOL}idle.max", stats["max_size"], pool),
        Reading(f"{_POOL}idle.min", min_size, pool),
        Reading(f"{_POOL}max", stats["max_size"], pool),
        Reading(f"{_POOL}pending_requests", stats["waiting"], pool),
        Reading(f"{_POOL}timeouts", stats["exhausted"], pool),
    ]


def credential_readings(
    life: CredentialLife, rotations: int, attributes: Attributes = MappingProxyType({})
) -> list[Reading]:
    """Return what is collected of a credential.

    Args:
        life: How long it still works.
        rotations: How often it has been replaced.
        attributes: Beside those of the client.
    """
    found = [Reading("failfast.credential.rotations", rotations, attributes)]
    if life.remaining is not None:
        found.append(Reading("failfast.credential.remaining", life.remaining, attributes))
    return found


class Telemetry:
    """Records the calls of one client.

    Args:
        attributes: What every span and measurement bears, such as ``server.address``.
        target: What a span is named by when it has no operation.
        system: ``db.system.name`` of the measurements, for a server without spans of its own
            convention: those are HTTP client spans then.
        readings: Gives the values that are read at each collection; held weakly when it is a
            method, so that a client that is dropped is not kept.
    """

    def __init__(
        self,
        attributes: Attributes,
        target: str,
        *,
        system: str | None = None,
        readings: Callable[[], Iterable[Reading]] | None = None,
    ) -> None:
        self.attributes = dict(attributes)
        self.target = target
        self.system = system
        #: Whether a call was recorded ever: cheaper to see than whether one is to be now.
        self.has_recorded = False
        self._readings: Callable[[], Callable[[], Iterable[Reading]] | None] = _no_readings
        if readings is not None:
            self.observe(readings)

    def observe(self, readings: Callable[[], Iterable[Reading]]) -> None:
        """Read values at each collection from now on.

        Args:
            readings: As for the constructor.
        """
        self._readings = weakref.WeakMethod(readings)
        _observed.add(self)
        _instruments()

    def call(
        self,
        operation: str | None = None,
        *,
        attributes: Attributes | None = None,
        parent: Call | None = None,
    ) -> AbstractContextManager[Call | None]:
        """Return a context manager that records one call.

        Args:
            operation: ``db.operation.name``, where the call has one; never parsed out of SQL.
            attributes: Further attributes of the span, such as ``db.operation.batch.size``.
            parent: The block that the call is a part of. A span that the caller has opened inside
                that block stands over it.

        Returns:
            A context manager. It yields the call, for what is known only at its end; None when
            nothing is recorded.
        """
        tracing, instruments = _tracing(), _instruments()
        if tracing is not None and tracing.drops_all():
            tracing = None
        if tracing is None and instruments is None:
            return nullcontext()
        self.has_recorded = True
        return Call(self, (tracing, instruments), operation, attributes, parent)

    def measure(self, name: str, seconds: float, pool: str) -> None:
        """Record a duration of a pool.

        Args:
            name: ``create_time``, ``wait_time`` or ``use_time``.
            seconds: How long it took.
            pool: Which pool.
        """
        if (instruments := _instruments()) is not None:
            attributes = {**self.attributes, f"{_POOL}pool.name": pool}
            instruments.record(_POOL + name, seconds, attributes)

    def read(self) -> Iterable[Reading]:
        """Return the values that are to be collected now."""
        readings = self._readings()
        return () if readings is None else readings()


def _no_readings() -> None:
    return None


class Call(AbstractContextManager["Call"]):
    """One call while it is recorded: a span of kind CLIENT, and a measurement of its duration.

    The span is not made the current one: user code runs inside some calls (the body of a block),
    and may end them in another thread or task.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        recorders: tuple[_Tracing | None, _Instruments | None],
        operation: str | None,
        attributes: Attributes | None,
        parent: Call | None,
    ) -> None:
        self._tracing, self._instruments = recorders
        self._measured = dict(telemetry.attributes)
        self._attributes = {**telemetry.attributes, **(attributes or {})}
        self._name = telemetry.target
        if operation is not None:
            self._name = f"{operation} {telemetry.target}".rstrip()
            self._measured["db.operation.name"] = operation
        if telemetry.system is not None:
            self._name = f"{telemetry.target} {operation}"
            self._measured["db.system.name"] = telemetry.system
        elif operation is not None:
            self._attributes["db.operation.name"] = operation
        self._parent = parent
        self._started = 0.0
        #: Its span, while it is recorded.
        self.span: Any = None
        #: The caller's span when this call began.
        self.around: Any = None
        #: What it has failed with, where that is raised later or never.
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        if self._tracing is not None:
            self.around = self._tracing.current_span()
            self.span = self._tracing.start(self._name, self._attributes, self._context())
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        took = time.perf_counter() - self._started
        error = error or self.failure
        failure: Attributes = {} if error is None else failure_attributes(error)
        if self.span is not None and self._tracing is not None:
            self._tracing.end(self.span, failure)
        if self._instruments is not None:
            self._instruments.record(_DURATION, took, {**self._measured, **failure})

    def note(self, name: str, value: str | float) -> None:
        """Add an attribute that is known only now, such as ``db.response.returned_rows``."""
        if self.span is not None:
            self.span.set_attribute(name, value)

    def _context(self) -> Any:
        parent = self._parent
        if parent is None or parent.span is None or self._tracing is None:
            return None
        # The block is the parent, unless the caller has opened a span of their own inside it.
        if self.around is not parent.around:
            return None
        return self._tracing.context_of(parent.span)


def failure_attributes(error: BaseException) -> dict[str, str | int]:
    """Return what a span and a measurement say of a failure: codes and types, never a message.

    Args:
        error: What came out of the call.
    """
    kind = type(error)
    code = getattr(error, "sqlstate", None) or getattr(error, "code", None)
    status = getattr(error, "status", None)
    if isinstance(code, str) and code:
        return {"error.type": code, "db.response.status_code": code}
    if isinstance(status, int):
        return {"error.type": str(status), "http.response.status_code": status}
    return {"error.type": f"{kind.__module__}.{kind.__qualname__}"}


class suppressed:  # noqa: N801 - reads as contextlib's managers do
    """Keep the drivers' own instrumentation from recording, in a ``with`` block, what we record."""

    __slots__ = ("_context", "_token")

    def __enter__(self) -> None:
        self._context = sys.modules.get("opentelemetry.context")
        self._token: Any = None
        if self._context is not None and is_enabled():
            self._token = self._context.attach(self._context.set_value(_SUPPRESS, value=True))

    def __exit__(self, *exc_info: object) -> None:
        if self._token is not None and self._context is not None:
            self._context.detach(self._token)


class _Tracing:
    """The tracer of one provider."""

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self._api: Any = sys.modules["opentelemetry.trace"]
        self._tracer = provider.get_tracer(_SCOPE)
        describe = getattr(getattr(self._tracer, "sampler", None), "get_description", str)()
        #: Samplers that sample nothing, and those that sample what a sampled parent asks for.
        self._drops = describe in {"AlwaysOffSampler", "TraceIdRatioBased{0.0}"}
        self._follows_parent = describe.startswith(
            ("ParentBased{root:AlwaysOffSampler,", "ParentBased{root:TraceIdRatioBased{0.0},")
        )

    def drops_all(self) -> bool:
        """Return whether a span begun now is sure not to be sampled; cheaper than to begin one."""
        if self._follows_parent:
            return not self.current_span().get_span_context().trace_flags.sampled
        return self._drops

    def current_span(self) -> Any:
        return self._api.get_current_span()

    def start(self, name: str, attributes: Attributes, context: Any) -> Any:
        return self._tracer.start_span(
            name, context=context, kind=self._api.SpanKind.CLIENT, attributes=attributes
        )

    def context_of(self, span: Any) -> Any:
        return self._api.set_span_in_context(span)

    def end(self, span: Any, failure: Attributes) -> None:
        if failure:
            span.set_attributes(failure)
            span.set_status(self._api.StatusCode.ERROR)
        span.end()


class _Instruments:
    """The instruments of one meter provider."""

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self._observation: Any = sys.modules["opentelemetry.metrics"].Observation
        meter = provider.get_meter(_SCOPE)
        self._histograms = {
            name: meter.create_histogram(
                name, unit="s", description=text, explicit_bucket_boundaries_advisory=_BUCKETS
            )
            for name, text in _MEASURED
        }
        for name, kind, unit, text in _READ:
            create = getattr(meter, f"create_observable_{kind}")
            create(name, callbacks=[self._reader(name)], unit=unit, description=text)

    def record(self, name: str, seconds: float, attributes: Attributes) -> None:
        self._histograms[name].record(seconds, attributes)

    def _reader(self, name: str) -> Callable[[object], list[Any]]:
        def read(_: object) -> list[Any]:
            return [
                self._observation(reading.value, {**source.attributes, **reading.attributes})
                for source in list(_observed)
                for reading in source.read()
                if reading.name == name
            ]

        return read


_observed: weakref.WeakSet[Telemetry] = weakref.WeakSet()
_known: dict[str, Any] = {"tracing": None, "instruments": None}
_making = OwnedLock()


def _tracing() -> _Tracing | None:
    provider = _tracer_provider()
    return None if provider is None else _made("tracing", provider, _Tracing)


def _instruments() -> _Instruments | None:
    provider = _meter_provider()
    return None if provider is None else _made("instruments", provider, _Instruments)


def _made(name: str, provider: Any, make: Callable[[Any], Any]) -> Any:
    known = _known[name]
    if known is None or known.provider is not provider:
        # Once for each provider: a second set of observable instruments would count twice.
        with _making:
            known = _known[name]
            if known is None or known.provider is not provider:
                known = _known[name] = make(provider)
    return known
