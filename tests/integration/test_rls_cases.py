"""check_rls() on schemas that leak, each with an attack that works, and on schemas that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from clients._rls.check import Finding, check_rls
from tests.rls_cases.cases import CASES, Case, CaseDatabase, CaseServer, case_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer

LEAKY = [case for case in CASES if case.kind == "leaky"]
SAFE = [case for case in CASES if case.kind == "safe"]


@pytest.fixture(scope="module")
def cases(own_postgres: PostgresServer) -> Iterator[CaseServer]:
    """One database, in which a case's schema follows another's."""
    with case_server(own_postgres.url(dbname="postgres"), "rls_cases") as server:
        yield server


def _name(case: Case) -> str:
    return case.name


def _check(database: CaseDatabase) -> list[Finding]:
    with database.connect() as conn:
        return check_rls(conn, database.case.setting)


def _attacked(database: CaseDatabase) -> str | None:
    try:
        return database.case.attack(database)
    except psycopg.Error:
        return None


@pytest.mark.parametrize("case", LEAKY, ids=_name)
def test_a_leak_is_found_and_its_fix_closes_it(cases: CaseServer, case: Case) -> None:
    """The attack works; a finding tells; its SQL ends both, and the owner loses nothing."""
    with case.database(cases) as database:
        told = _check(database)
        assert _attacked(database)
    with case.database(cases, case.text(".repair.sql")) as database:
        repaired = {(finding.rule, finding.object) for finding in _check(database)}
        assert _attacked(database) is None
    with case.database(cases) as database:
        found = [
            finding
            for finding in told
            if finding.severity in ("leak", "risk")
            and (finding.rule, finding.object) not in repaired
        ]
        assert found, "nothing tells of it"
        for finding in found:
            database.run(finding.fix)

        left = {(finding.rule, finding.object) for finding in _check(database)}
        assert not left & {(finding.rule, finding.object) for finding in found}
        case.keeps(database)
        assert _attacked(database) is None


@pytest.mark.parametrize("case", SAFE, ids=_name)
def test_a_safe_schema_is_called_no_leak(cases: CaseServer, case: Case) -> None:
    """No attack works, the owner has their rows, and no finding says that it leaks."""
    with case.database(cases) as database:
        assert [str(f) for f in _check(database) if f.severity == "leak"] == []
        case.keeps(database)
        assert _attacked(database) is None
