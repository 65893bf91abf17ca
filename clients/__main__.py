"""The command line: ``python -m clients check`` and ``python -m clients rls``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from ._check import check_services, url_for
from .errors import ClientError
from .postgres_client import PostgresClient
from .vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._check import ServiceReport
    from ._shared.credential_life import CredentialLife

__all__ = ["main"]

_HEADER = ("SERVICE", "STATUS", "REACHABLE", "LOGIN", "VERSION", "LATENCY", "RLS", "CREDENTIAL")
_ROLE_HELP = "take user and password from this role of Vault's database secrets engine"
_YES_OR_NO = {True: "yes", False: "no", None: "-"}


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words behind the program's name; the process's own when None.
        environ: Where the ``VAULT_*`` variables are read; the process's environment when None.

    Returns:
        0 when all is well, 1 when something was found, 2 when it could not be looked for.
    """
    parser = argparse.ArgumentParser(
        prog="python -m clients", description="Check the services that VAULT_ADDR leads to."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "is every service reachable, authenticated, healthy? exit code 0 or 1"),
        ("rls", "which tables does row-level security not protect? exit code 1 when there are any"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        command.add_argument("--database-role", metavar="ROLE", help=_ROLE_HELP)
    commands.choices["check"].add_argument("--valkey-role", metavar="ROLE", help=_ROLE_HELP)
    options = parser.parse_args(argv)
    if options.command == "check":
        reports = check_services(
            environ, database_role=options.database_role, valkey_role=options.valkey_role
        )
        return _show_check(reports, as_json=options.json)
    try:
        return _rls(environ, options.database_role, as_json=options.json)
    except ClientError as error:
        print(f"python -m clients rls: {error}", file=sys.stderr)
        return 2


def _show_check(reports: list[ServiceReport], *, as_json: bool) -> int:
    healthy = all(report.healthy for report in reports)
    if as_json:
        services = [dataclasses.asdict(report) for report in reports]
        print(json.dumps({"healthy": healthy, "services": services}, indent=2))
    else:
        _print_table([_HEADER, *map(_row, reports)])
        for report in reports:
            print(f"{report.service}: {report.detail}")
        print("All infrastructure clients healthy!" if healthy else "Not healthy: see above.")
    return 0 if healthy else 1


def _rls(environ: Mapping[str, str] | None, role: str | None, *, as_json: bool) -> int:
    with (
        VaultClient(environ=environ) as vault,
        url_for(vault, role, vault.get_database_url) as url,
        PostgresClient(url, 1, min_size=1) as client,
    ):
        findings = client.check_rls()
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
        print(f"{len(findings)} findings" if findings else "Row-level security: no findings.")
    return 1 if findings else 0


def _row(report: ServiceReport) -> tuple[str, ...]:
    return (
        report.service,
        "healthy" if report.healthy else "FAILED",
        _YES_OR_NO[report.reachable],
        _YES_OR_NO[report.authenticated],
        report.version or "-",
        "-" if report.latency is None else f"{report.latency * 1000:.1f} ms",
        report.rls or "-",
        "-" if report.credential is None else _life(report.credential),
    )


def _life(credential: CredentialLife) -> str:
    age = f"{_span(credential.age)} old"
    return age if credential.remaining is None else f"{age}, {_span(credential.remaining)} left"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
