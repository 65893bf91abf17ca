"""The README's table of numbers, made of ``bench.json``.

``python -m tests.benchmarks._numbers`` writes it into the README after a whole ``make bench``, and
keeps that run as ``measured.json`` and ``measured.md``: a test compares the README with it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks._board import on_what
from tests.benchmarks._promises import PROMISES, Promise

__all__ = ["HEADLINES", "MEASURED", "numbers_of", "numbers_table", "publish", "update_readme"]

ROOT = Path(__file__).parents[2]
#: The run that the README shows.
MEASURED = Path(__file__).with_name("measured.json")
_BLOCK = re.compile(r"(?<=<!-- numbers -->\n).*?(?=<!-- /numbers -->)", re.DOTALL)
_SERVERS = ("PostgreSQL", "Valkey", "OpenBao")
#: What the README shows; ``bench.md`` has the rest.
HEADLINES = (
    *("trips", "five trips", "bare", "restart", "stream"),
    *("miss", "get", "threads"),
)


def numbers_table(content: dict[str, Any]) -> str:
    """Return the README's block.

    Args:
        content: What ``bench.json`` holds.

    Raises:
        ValueError: The run was not whole, or a promise was broken: such figures are not shown.
    """
    if not content["complete"]:
        raise ValueError("bench.json is of a part of the benchmarks: run the whole `make bench`")
    if broken := [row["what"] for row in content["rows"] if not row["kept"]]:
        raise ValueError(f"bench.json has broken promises: {', '.join(broken)}")
    servers = ", ".join(f"{one} {content['versions'][one]}" for one in _SERVERS)
    lines = [
        f"Measured by `make bench` on {on_what(content)}, with {servers}:",
        "",
        "| compared | measured | limit |",
        "|---|---|---|",
    ]
    for name in HEADLINES:
        promise = PROMISES[name]
        worst = _worst(promise, [row for row in content["rows"] if row["promise"] == name])
        value = promise.value_text(worst)
        lines.append(f"| {promise.label} | {value} | {promise.limit_text()} |")
    return "\n".join(lines) + "\n"


def numbers_of(readme: str) -> str:
    """Return the block that the README shows.

    Raises:
        ValueError: It has none.
    """
    found = _BLOCK.search(readme)
    if found is None:
        raise ValueError("README.md has no block between <!-- numbers --> and <!-- /numbers -->")
    return found.group()


def update_readme(readme: str, content: dict[str, Any]) -> str:
    """Return the README's text with the block made anew; raises as ``numbers_table`` does."""
    numbers_of(readme)
    block = numbers_table(content)
    return _BLOCK.sub(lambda _: block, readme)


def publish(folder: Path) -> None:
    """Let the README show the run that *folder* has, and keep that run beside this module.

    Raises:
        OSError: There is none.
        ValueError: It was not whole, or a promise was broken; nothing was written.
    """
    found, table = (folder / "bench.json").read_text(), (folder / "bench.md").read_text()
    page = folder / "README.md"
    shown = update_readme(page.read_text(), json.loads(found))
    MEASURED.write_text(found)
    MEASURED.with_suffix(".md").write_text(table)
    page.write_text(shown)


def _worst(promise: Promise, rows: list[dict[str, Any]]) -> float:
    values = [row["ratio"] if promise.kind == "ratio" else row["ours"] for row in rows]
    return float(min(values) if promise.at_least else max(values))


if __name__ == "__main__":
    try:
        publish(ROOT)
    except (OSError, ValueError) as error:
        sys.exit(f"numbers: {error}")
