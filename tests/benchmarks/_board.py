"""The one table: what the benchmarks measured, as Markdown and as JSON.

``bench.json`` is one object::

    format      1
    measured    date and time of the run, UTC, ISO 8601
    complete    whether every promise and every comparison was measured
    machine     cpu, cpus, platform, python: what it ran on
    versions    of the servers and of the libraries that were compared
    rows        a list of objects, in the order of the table:
                  area, what, against   what was measured, and what it was compared with
                  ours, theirs          figures in the row's unit; theirs is null without one
                  unit                  "s" per call, "B", "calls", "requests", "" for a share
                  ratio                 ours by theirs, the median of paired rounds where they
                                        took turns; null without a comparison
                  trips, their_trips    round trips of a call, counted on the wire; null where not
                  promise               the promise's name in _promises.py, or null
                  limit                 its limit as the table prints it, or null
                  kept                  whether it was kept; true where nothing was promised
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyperf

from tests.benchmarks._comparisons import COMPARISONS
from tests.benchmarks._promises import PROMISES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.benchmarks._pairs import Times

__all__ = ["Board", "Row", "compare", "figure", "on_what"]

_LIBRARIES = (
    *("hvac", "cachetools", "psycopg", "psycopg-pool", "SQLAlchemy", "Django"),
    *("redis", "hiredis", "valkey-glide-sync", "limits"),
)
_HEADINGS = ("area", "what", "ours", "against", "theirs", "ratio", "trips", "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; the module's docstring describes each part."""

    area: str
    what: str
    ours: float
    unit: str = "s"
    against: str = ""
    theirs: float | None = None
    ratio: float | None = None
    trips: float | None = None
    their_trips: float | None = None
    promise: str | None = None

    @property
    def promised(self) -> float:
        """The figure that the promise bounds."""
        value = self.ours
        if self.promise is not None and PROMISES[self.promise].kind == "ratio":
            assert self.ratio is not None, f"{self.what} promises a ratio and has none"
            value = self.ratio
        return value

    @property
    def kept(self) -> bool:
        """Whether the promise is kept; true when there is none."""
        return self.promise is None or PROMISES[self.promise].kept_by(self.promised)

    def limit(self) -> str | None:
        """Return the limit as text, or None."""
        return None if self.promise is None else PROMISES[self.promise].limit_text()

    def cells(self) -> list[str]:
        """Return what the table prints."""
        return [
            self.area,
            self.what,
            figure(self.ours, self.unit),
            self.against,
            "" if self.theirs is None else figure(self.theirs, self.unit),
            "" if self.ratio is None else f"{self.ratio:.3g}",
            _trips(self.trips, self.their_trips),
            self.limit() or "",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into ``bench.json``."""
        return {**asdict(self), "limit": self.limit(), "kept": self.kept}


def compare(
    area: str,
    what: str,
    times: Times,
    ours: str,
    *,
    trips: Mapping[str, float] | None = None,
    promises: Mapping[str, str] | None = None,
) -> list[Row]:
    """Return one row for each contestant that took turns with *ours*.

    Args:
        area: The service.
        what: What was measured.
        times: What the rounds took.
        ours: Our contestant's name.
        trips: Round trips of a call, by contestant.
        promises: The names of promises, by the contestant that they compare with.
    """
    trips, promises = trips or {}, promises or {}
    return [
        Row(
            area=area,
            what=what,
            ours=times.typical(ours),
            against=other,
            theirs=times.typical(other),
            ratio=times.ratio(ours, other),
            trips=trips.get(ours),
            their_trips=trips.get(other),
            promise=promises.get(other),
        )
        for other in times.seconds
        if other != ours
    ]


@dataclass
class Board:
    """Collects rows.

    Args:
        versions: Versions of servers, by name; those of the libraries are added.
    """

    versions: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(self, *rows: Row) -> list[Row]:
        """Add rows; return those that break a promise, for the benchmark to assert none."""
        self.rows += rows
        return [row for row in rows if not row.kept]

    def missing(self) -> list[str]:
        """Return the promises, and the comparisons, that no row measured."""
        promises = PROMISES.keys() - {row.promise for row in self.rows}
        comparisons = COMPARISONS - {(row.what, row.against) for row in self.rows}
        return [*sorted(promises), *(" / ".join(one) for one in sorted(comparisons))]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``bench.json``."""
        return {
            "format": 1,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "complete": not self.missing(),
            "machine": machine(),
            "versions": self.versions | {name: version(name) for name in _LIBRARIES},
            "rows": [row.as_dict() for row in self.rows],
        }

    def write(self, folder: Path) -> str:
        """Write ``bench.json`` and ``bench.md`` into *folder*; return the latter's text."""
        text = self.markdown()
        (folder / "bench.json").write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        (folder / "bench.md").write_text(text)
        return text

    def markdown(self) -> str:
        """Return the table, with what it was measured on above it."""
        content = self.as_dict()
        versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
        lines = [
            f"Measured {content['measured']} on {on_what(content)}.",
            f"{versions}.",
            "",
            "Ratios are medians of paired rounds; trips are counted on the wire, ours / theirs.",
            "With one thread on loopback, client and server share one processor.",
            "At several threads the time of a call is that of the whole by the number of calls.",
            "",
            _line(list(_HEADINGS)),
            "|" + "---|" * len(_HEADINGS),
            *(_line(row.cells()) for row in self.rows),
        ]
        return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """Describe the machine, without its name."""
    found = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    return {
        "cpu": found.get("cpu_model_name", "unknown"),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": f"{found['python_implementation']} {found['python_version']}",
    }


def on_what(content: dict[str, Any]) -> str:
    """Say in one line on what the figures of ``bench.json`` were measured."""
    this = content["machine"]
    return f"{this['cpu']}, {this['cpus']} CPUs, {this['platform']}, {this['python']}"


def figure(value: float, unit: str) -> str:
    """Return a figure as the table prints it."""
    if unit == "s":
        for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= scale:
                return f"{value / scale:.3g} {name}"
        return f"{value / 1e-6:.2g} µs"
    if unit == "B":
        return f"{value / 2**20:.1f} MiB"
    if not unit:
        return f"{value:.1%}"
    return f"{value:g} {unit}"


def _trips(ours: float | None, theirs: float | None) -> str:
    both = [f"{one:g}" for one in (ours, theirs) if one is not None]
    return " / ".join(both)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
