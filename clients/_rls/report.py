"""Findings as text, as JSON, and as SARIF for code scanning."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from .finding import SEVERITIES, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .finding import Proof, Severity

__all__ = ["as_json", "as_sarif", "as_text", "counted", "is_failure", "proof_findings"]

_LEVELS: Final = {"leak": "error", "risk": "warning", "slow": "note", "note": "note"}


def proof_findings(proof: Proof) -> list[Finding]:
    """Return what was proven, and what could not be tried, as findings."""
    leaks = [
        Finding(
            "proven-leak",
            leak.object,
            f"{leak.what}; run as the administrator:\n{leak.statements}",
            "-- as the finding on this object says",
        )
        for leak in proof.leaks
    ]
    untried = [
        Finding("not-tried", name, why, "-- add a row by hand, and try again", "note")
        for name, why in proof.untried.items()
    ]
    return [*leaks, *untried]


def is_failure(findings: Sequence[Finding], least: Severity) -> bool:
    """Return whether any finding is as bad as *least*, or worse."""
    return any(SEVERITIES.index(f.severity) <= SEVERITIES.index(least) for f in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Return findings for people."""
    if not findings:
        return "Row-level security: no findings."
    return "\n".join([*map(str, findings), counted(findings)])


def counted(findings: Sequence[Finding]) -> str:
    """Say how many findings there are.

    Args:
        findings: One at least.
    """
    return "1 finding" if len(findings) == 1 else f"{len(findings)} findings"


def as_json(findings: Sequence[Finding]) -> str:
    """Return findings as a JSON array of objects."""
    return json.dumps([finding._asdict() for finding in findings], indent=2)


def _message(finding: Finding) -> str:
    text = f"{finding.object} {finding.why}"
    return f"{text}\n\nFix: {finding.fix}" if finding.fix else text


def as_sarif(findings: Sequence[Finding]) -> str:
    """Return findings as a SARIF 2.1.0 log.

    https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
    """
    results: list[dict[str, Any]] = [
        {
            "ruleId": finding.rule,
            "level": _LEVELS[finding.severity],
            "message": {"text": _message(finding)},
            "locations": [
                {
                    # Code scanning shows results of a file alone, and a database has none.
                    "physicalLocation": {
                        "artifactLocation": {"uri": "sql"},
                        "region": {"startLine": 1},
                    },
                    "logicalLocations": [{"fullyQualifiedName": finding.object}],
                }
            ],
            "partialFingerprints": {"rule/object": f"{finding.rule}/{finding.object}"},
        }
        for finding in findings
    ]
    rules = [{"id": rule} for rule in sorted({finding.rule for finding in findings})]
    driver = {"name": "failfast-clients", "rules": rules}
    return json.dumps(
        {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{"tool": {"driver": driver}, "results": results}],
        },
        indent=2,
    )
