"""Policies made by chance: what check_rls() says of each is what PostgreSQL does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients._rls import evaluate
from clients._rls.check import check_rls
from tests.rls_databases import scratch_database
from tests.rls_generated import SCHEMA, WORLDS, generated, really_leaks, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rls_databases import Scratch
    from utils._stack.postgres import PostgresServer

BATCH = 50


@pytest.fixture
def scratch(own_postgres: PostgresServer) -> Iterator[Scratch]:
    """A database whose tables are all generated."""
    with scratch_database(own_postgres, "rls_generated") as database:
        yield database


def _told(scratch: Scratch) -> tuple[set[str], set[str]]:
    """Return the tables that check_rls() calls open, and those that it cannot decide."""
    with scratch.connect() as connection:
        findings = check_rls(connection)
    about = [f for f in findings if f.object.startswith("policy p on app.")]
    names = {f: f.object.removeprefix("policy p on app.") for f in about}
    undecided = {names[f] for f in about if f.rule == "policy-not-proven"}
    return {names[f] for f in about if f.severity in ("leak", "risk")} - undecided, undecided


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(30, 2030), marks=pytest.mark.slow)], ids=len
)
def test_generated_policies_are_judged_as_they_work(
    scratch: Scratch, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No policy is called open that is not, none is missed, and few are not decided."""
    # Whether they can be decided is the question, and not how busy the machine is.
    monkeypatch.setattr(evaluate, "EVALUATION_SECONDS", 1e4)
    wrong: list[str] = []
    undecided = 0
    for start in range(seeds.start, seeds.stop, BATCH):
        batch = range(start, min(start + BATCH, seeds.stop))
        policies = {f"t{seed}": generated(seed) for seed in batch}
        scratch.run(SCHEMA + "".join(table(name, policy) for name, policy in policies.items()))
        told, unknown = _told(scratch)
        really: set[str] = set()
        for members, teams in WORLDS:
            scratch.run(f"DELETE FROM app.members; {members}")
            with scratch.connect() as connection:
                really |= really_leaks(connection, policies, teams, fresh=True)
                really |= really_leaks(connection, policies, teams, fresh=False)
        scratch.run("DROP SCHEMA app CASCADE")
        undecided += len(unknown)
        wrong += [
            f"{'open, and not told' if name in really else 'told, and not open'}: {policies[name]}"
            for name in sorted((told ^ really) - unknown)
        ]

    assert wrong == []
    assert undecided < len(seeds) / 20
