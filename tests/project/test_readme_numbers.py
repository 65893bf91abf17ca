"""The README's numbers are the benchmarks': the same comparisons, limits that are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.benchmarks._board import Row, on_what
from tests.benchmarks._numbers import HEADLINES, MEASURED, numbers_of, numbers_table, update_readme
from tests.benchmarks._promises import PROMISES
from tests.board_sample import whole_run

README = (Path(__file__).parents[2] / "README.md").read_text()
_LINE = re.compile(r"^\| (.+) \| ([\d.e-]+)(%?) \| [≤≥] [\d.]+%? \|$")


def _check(block: str) -> None:
    """See that a block has every headline, with its limit, and a value that keeps it."""
    assert re.match(r"Measured by `make bench` on .+, \d+ CPUs, \w+ \w+, \w+ 3\.\d+", block)
    lines = [line for line in block.splitlines() if _LINE.match(line)]
    assert len(lines) == len(HEADLINES)
    for name, line in zip(HEADLINES, lines, strict=True):
        promise = PROMISES[name]
        label, value, percent = _LINE.findall(line)[0]
        assert label == promise.label
        assert line.endswith(f"| {promise.limit_text()} |")
        assert promise.kept_by(float(value) / (100 if percent else 1)), line


def test_the_readme_shows_every_headline_and_keeps_its_limit() -> None:
    """What the README says was measured is what the benchmarks promise."""
    _check(numbers_of(README))


def test_every_figure_of_the_readme_was_measured() -> None:
    """They are those of the run that is kept, and of no other; it has the whole table, too."""
    kept = json.loads(MEASURED.read_text())

    assert numbers_of(README) == numbers_table(kept)
    table = MEASURED.with_suffix(".md").read_text()
    assert kept["measured"] in table
    assert on_what(kept) in table
    assert sum(1 for line in table.splitlines() if line.startswith("|")) == 2 + len(kept["rows"])


def test_a_new_run_is_shown_in_the_same_form() -> None:
    """What ``make bench`` wrote becomes the README's block, and nothing else of it changes."""
    content = whole_run().as_dict()

    page = update_readme(README, content)

    _check(numbers_of(page))
    assert numbers_of(page) == numbers_table(content)
    assert page.replace(numbers_of(page), "") == README.replace(numbers_of(README), "")
    assert update_readme(page, content) == page


@pytest.mark.parametrize(
    ("name", "better", "worst"), [("get", 0.1, "| 0.20 |"), ("threads", 9.0, "| 3.00 |")]
)
def test_the_worst_figure_is_shown(name: str, better: float, worst: str) -> None:
    """A promise that several rows measured is not told by the luckiest of them."""
    board = whole_run()
    board.rows = [row for row in board.rows if row.promise != name]
    for ratio in (better, float(worst.strip("| ")), better):
        board.add(Row(area="a", what="b", ours=1.0, theirs=1.0, ratio=ratio, promise=name))

    (line,) = [
        line
        for line in numbers_table(board.as_dict()).splitlines()
        if line.startswith(f"| {PROMISES[name].label} |")
    ]

    assert worst in line


@pytest.mark.parametrize("name", HEADLINES)
def test_a_broken_promise_is_not_shown(name: str) -> None:
    """Figures of a run that failed stay out of the README."""
    with pytest.raises(ValueError, match="broken promises"):
        numbers_table(whole_run(broken=name).as_dict())


def test_a_part_of_the_benchmarks_is_not_shown() -> None:
    """Neither do those of a run of some benchmarks alone."""
    with pytest.raises(ValueError, match="run the whole"):
        numbers_table(whole_run(missing="bare").as_dict())


def test_a_readme_without_the_block_is_refused() -> None:
    """The markers are not to be lost."""
    with pytest.raises(ValueError, match="<!-- numbers -->"):
        update_readme("# Another page\n", whole_run().as_dict())
