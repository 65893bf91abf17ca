"""The README's table of numbers, made of ``bench.json``.

``python -m tests.benchmarks._numbers`` writes it into the README after a whole ``make bench``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks._board import on_what
from tests.benchmarks._promises import PROMISES, Promise

__all__ = ["HEADLINES", "numbers_of", "numbers_table", "update_readme"]

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(?<=<!-- numbers -->\n).*?(?=<!-- /numbers -->)", re.DOTALL)
_SERVERS = ("PostgreSQL", "Valkey", "OpenBao")
#: What the README shows; ``bench.md`` has the rest.
HEADLINES = (
    *("trips", "five trips", "bare", "bare, 5 ms", "restart", "policy", "stream"),
    *("warm", "miss", "get", "pipeline", "threads", "import", "import all"),
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


def _worst(promise: Promise, rows: list[dict[str, Any]]) -> float:
    values = [row["ratio"] if promise.kind == "ratio" else row["ours"] for row in rows]
    return float(min(values) if promise.at_least else max(values))


if __name__ == "__main__":
    page = ROOT / "README.md"
    try:
        page.write_text(
            update_readme(page.read_text(), json.loads((ROOT / "bench.json").read_text()))
        )
    except (OSError, ValueError) as error:
        sys.exit(f"numbers: {error}")
