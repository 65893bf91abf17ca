"""What ``check_rls()`` returns, apart from the evaluation of policies that finds it.

Users import this name with the client; the rest is imported by who runs the check.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = ["SEVERITIES", "Finding", "Severity"]

Severity = Literal["leak", "risk", "slow", "note"]

#: From the worst to the least.
SEVERITIES: Final[tuple[Severity, ...]] = ("leak", "risk", "slow", "note")


class Finding(NamedTuple):
    """One place where row-level security does not hold, or costs more than it must.

    Args:
        rule: The rule's name, from the table in the docstring of `clients._rls.check`.
        object: The table, policy, view or function, as SQL spells it.
        why: Why it matters; for a policy, the row that proves it.
        fix: SQL that closes it, to be read before it is run by the owner.
        severity: ``"leak"``: one user reads or changes another's rows. ``"risk"``: it leaks under
            a condition that the finding names, or could not be proven safe. ``"slow"``: it costs
            more than it must. ``"note"``: worth knowing.
    """

    rule: str
    object: str
    why: str
    fix: str
    severity: Severity = "leak"

    def __str__(self) -> str:
        return f"{self.severity}: {self.rule}: {self.object} {self.why}; fix it with: {self.fix}"
