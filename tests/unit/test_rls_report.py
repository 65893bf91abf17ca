"""Findings as JSON and SARIF, and the exit code that their severities make."""

from __future__ import annotations

import json

import pytest

from clients._rls.finding import SEVERITIES, Finding, Leak, Proof, Severity
from clients._rls.report import as_json, as_sarif, is_failure, proof_findings

FOUND = [
    Finding("rls-disabled", 'app."Od""d"', "shows ünïcode rows", "ALTER TABLE x;", severity)
    for severity in SEVERITIES
]


def test_json_is_the_findings_field_by_field() -> None:
    """Each field of each finding is there under its own name."""
    assert [Finding(**found) for found in json.loads(as_json(FOUND))] == FOUND
    assert json.loads(as_json([])) == []


@pytest.mark.parametrize("findings", [[], FOUND], ids=["none", "each severity"])
def test_sarif_has_what_its_schema_requires(findings: list[Finding]) -> None:
    """A log has a version and runs, a run a named tool, a result a message, a level and a rule."""
    log = json.loads(as_sarif(findings))
    (run,) = log["runs"]
    driver = run["tool"]["driver"]

    assert (log["version"], driver["name"]) == ("2.1.0", "failfast-clients")
    assert log["$schema"].endswith("sarif-2.1.0.json")
    assert len(run["results"]) == len(findings)
    assert len({rule["id"] for rule in driver["rules"]}) == len(driver["rules"])
    for finding, result in zip(findings, run["results"], strict=True):
        assert result["ruleId"] in {rule["id"] for rule in driver["rules"]}
        assert result["level"] in {"none", "note", "warning", "error"}
        assert finding.fix in result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"]
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        (logical,) = location["logicalLocations"]
        assert logical["fullyQualifiedName"] == finding.object
        assert all(isinstance(print_, str) for print_ in result["partialFingerprints"].values())


@pytest.mark.parametrize("found", SEVERITIES)
@pytest.mark.parametrize("least", SEVERITIES)
def test_only_what_is_bad_enough_fails(found: Severity, least: Severity) -> None:
    """A finding fails the command when it is as bad as asked for, or worse."""
    findings = [finding for finding in FOUND if finding.severity == found]

    assert is_failure(findings, least) == (SEVERITIES.index(found) <= SEVERITIES.index(least))
    assert not is_failure([], least)


def test_what_was_proven_is_a_leak_and_what_was_not_tried_a_note() -> None:
    """A proof's leaks fail every build; what could not be tried is said."""
    leak = Leak("app.docs", "another user reads a user's row", "BEGIN;\nROLLBACK;")
    proven, untried = proof_findings(Proof([leak], ["app.docs"], {"app.odd": "no row"}))

    assert (proven.severity, untried.severity) == ("leak", "note")
    assert leak.statements in proven.why
