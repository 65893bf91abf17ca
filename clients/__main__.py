"""The command line: ``python -m clients check`` and ``python -m clients rls``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._rls.finding import SEVERITIES
from ._rls.report import as_json, as_sarif, as_text, counted, is_failure, proof_findings
from ._shared.environment import identity_settings
from ._shared.pool_stats import stats_by_pool
from ._shared.secrecy import MaskedEnvironment
from ._vault.secret_urls import SecretUrls
from .errors import (
    ClientError,
    ConfigurationError,
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
    ValkeyConnectionError,
    ValkeyError,
    VaultAuthenticationError,
    VaultError,
)
from .identity import RlsSetting
from .postgres_client import PostgresClient
from .valkey_client import ValkeyClient
from .vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from ._shared.credential_life import CredentialLife

__all__ = ["ServiceReport", "check_services", "main", "url_for"]

# Reasons that mean that no server of the service answered.
_NOT_REACHED = frozenset(
    {"unreachable", "refused", "address", "timeout", "lost", "resources", "settings"}
    | {"not_vault", "protocol"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """What was found out about one service.

    Args:
        service: ``"vault"``, ``"postgres"`` or ``"valkey"``.
        healthy: Whether everything is as it should be.
        reachable: Whether it answered; None when it could not be tried.
        authenticated: Whether it accepted the credentials; None when it did not come to that.
        version: What it says it is.
        latency: Seconds that a health check took.
        rls: PostgreSQL alone: what can be said of row-level security.
        credential: How old the credential is, and how long it still works.
        detail: Where it is, or what is wrong.
        stats: The numbers of its client, or of each of its pools, as ``Clients.stats()`` has them.
    """

    service: str
    healthy: bool
    detail: str
    reachable: bool | None = None
    authenticated: bool | None = None
    version: str | None = None
    latency: float | None = None
    rls: str | None = None
    credential: CredentialLife | None = None
    stats: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def check_services(
    environ: Mapping[str, str] | None = None,
    *,
    database_role: str | None = None,
    valkey_role: str | None = None,
    identity: Mapping[str, RlsSetting] | None = None,
    local_role: str | None = None,
    database_path: str | None = None,
    valkey_path: str | None = None,
) -> list[ServiceReport]:
    """Try all three services.

    Args:
        environ: Where the ``VAULT_*`` variables are read; the process's environment when None.
        database_role: The role of the database secrets engine that ``build_clients()`` is given.
        valkey_role: Likewise for Valkey.
        identity: Whose rows they are, as ``build_clients()`` is given it.
        local_role: The role that users' transactions run under, likewise.
        database_path: Where PostgreSQL's secret is, likewise.
        valkey_path: Where Valkey's secret is, likewise.

    Returns:
        A report for each, also when the first of them already failed.
    """
    environ = None if environ is None else MaskedEnvironment(environ)
    with ExitStack() as stack:
        try:
            vault = stack.enter_context(VaultClient(environ=environ))
            reports = [_healthy("vault", vault, vault.addr, vault.credential_life())]
        except ClientError as error:
            untried = "not tried: its URL is in Vault"
            return [
                _failed("vault", error),
                ServiceReport(service="postgres", healthy=False, detail=untried),
                ServiceReport(service="valkey", healthy=False, detail=untried),
            ]
        urls = SecretUrls.of(vault, environ, database_path, valkey_path)
        reports.append(
            _try("postgres", lambda: _postgres(vault, urls, database_role, identity, local_role))
        )
        reports.append(_try("valkey", lambda: _valkey(vault, urls, valkey_role)))
        # Only now has it read the other two's secrets.
        reports[0] = dataclasses.replace(reports[0], stats={"vault": vault.stats()})
    return reports


def _try(service: str, check: Callable[[], ServiceReport]) -> ServiceReport:
    try:
        return check()
    except ClientError as error:
        return _failed(service, error)


def _postgres(
    vault: VaultClient,
    urls: SecretUrls,
    role: str | None,
    identity: Mapping[str, RlsSetting] | None,
    local_role: str | None,
) -> ServiceReport:
    with (
        url_for(vault, role, urls.database(role)) as url,
        PostgresClient(
            url,
            1,
            admin_url=urls.database_admin,
            min_size=1,
            identity=identity,
            local_role=local_role,
        ) as client,
    ):
        findings = client.check_rls()
        rls = "enforced" if not findings else f"{counted(findings)}: {_RLS_COMMAND}"
        life = client.credential_life() if role else urls.life(urls.database_path)
        return _healthy("postgres", client, client.server, life, rls=rls, healthy=not findings)


def _valkey(vault: VaultClient, urls: SecretUrls, role: str | None) -> ServiceReport:
    with url_for(vault, role, urls.valkey) as url, ValkeyClient(url) as client:
        life = client.credential_life() if role else urls.life(urls.valkey_path)
        return _healthy("valkey", client, client.server, life)


def url_for(
    vault: VaultClient, role: str | None, stored: Callable[..., str]
) -> AbstractContextManager[Callable[..., str]]:
    """Return the URL that *stored* returns, with a credential of *role* where one is named."""
    return nullcontext(stored) if role is None else vault.leased_url(role, stored)


def _healthy(
    service: str,
    client: VaultClient | PostgresClient | ValkeyClient,
    detail: str,
    credential: CredentialLife | None,
    *,
    rls: str | None = None,
    healthy: bool = True,
) -> ServiceReport:
    started = time.perf_counter()
    client.health_check()
    latency = time.perf_counter() - started
    return ServiceReport(
        service=service,
        healthy=healthy,
        reachable=True,
        authenticated=True,
        version=client.server_version(),
        latency=latency,
        rls=rls,
        credential=credential,
        detail=detail,
        stats=stats_by_pool(service, client.stats)
        if isinstance(client, PostgresClient)
        else {service: client.stats()},
    )


def _failed(service: str, error: ClientError) -> ServiceReport:
    reachable, authenticated = _how_far(service, error)
    return ServiceReport(
        service=service,
        healthy=False,
        reachable=reachable,
        authenticated=authenticated,
        rls="bypassed" if isinstance(error, RlsContextError) else None,
        detail=str(error),
    )


def _how_far(service: str, error: ClientError) -> tuple[bool | None, bool | None]:
    """Return whether the service answered and whether it let us in; None where nobody knows."""
    if isinstance(error, RlsContextError):
        return True, True
    # Without what Vault should have told, the other two were not tried.
    untried = service != "vault" and isinstance(error, VaultError)
    if untried or isinstance(error, ConfigurationError):
        return None, None
    if isinstance(error, VaultAuthenticationError) or error.reason == "login":
        return True, False
    if isinstance(error, PostgresConnectionError) and error.reason == "session":
        return True, True
    if isinstance(error, ValkeyError) and error.code is not None:
        return True, True if error.code == "NOPERM" else None
    # Vault and Valkey say nothing before the TLS handshake; a PostgreSQL server has answered.
    no_tls = error.reason == "tls" and not isinstance(error, PostgresError)
    refused = isinstance(error, (VaultError, PostgresConnectionError, ValkeyConnectionError))
    return not no_tls and error.reason not in _NOT_REACHED, None if refused else True


_RLS_COMMAND = "python -m clients rls"
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
    environ = None if environ is None else MaskedEnvironment(environ)
    parser = argparse.ArgumentParser(
        prog="python -m clients", description="Check the services that VAULT_ADDR leads to."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "is every service reachable, authenticated, healthy? exit code 0 or 1"),
        ("rls", "which tables are not protected? exit code 1: some, 2: they cannot be checked"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        command.add_argument("--database-role", metavar="ROLE", help=_ROLE_HELP)
        command.add_argument("--database-path", metavar="PATH", help=_path_help("DATABASE"))
        command.add_argument(
            "--setting",
            metavar="NAME=SETTING[:TYPE]",
            action="append",
            type=_Setting,
            help="whose rows they are, for each value of the identity its setting and its type "
            "(uuid, int, str, dict), such as tenant_id=shop.tenant_id:int; FAILFAST_IDENTITY, "
            "with commas between several, when left out",
        )
        command.add_argument(
            "--local-role", metavar="ROLE", help="the role that users' transactions run under"
        )
    check = commands.choices["check"]
    check.add_argument("--valkey-role", metavar="ROLE", help=_ROLE_HELP)
    check.add_argument("--valkey-path", metavar="PATH", help=_path_help("VALKEY"))
    rls = commands.choices["rls"]
    rls.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0, for code scanning")
    rls.add_argument(
        "--prove",
        action="store_true",
        help="also try for two users, in a transaction that is rolled back; needs the admin URL",
    )
    rls.add_argument(
        "--fail-on",
        choices=SEVERITIES,
        default="note",
        help="the least severity that makes the exit code 1; by default any",
    )
    options = parser.parse_args(argv)
    try:
        settings = options.setting or [_Setting(one) for one in identity_settings(environ)]
    except argparse.ArgumentTypeError as error:
        parser.error(f"FAILFAST_IDENTITY: {error}")
    identity = {one.name: one.setting for one in settings} or None
    if len(identity or ()) < len(settings):
        parser.error("a value of the identity is named twice: give each one setting")
    if options.command == "check":
        reports = check_services(
            environ,
            database_role=options.database_role,
            valkey_role=options.valkey_role,
            identity=identity,
            local_role=options.local_role,
            database_path=options.database_path,
            valkey_path=options.valkey_path,
        )
        repeated = shlex.join([*_RLS_COMMAND.split(), *_repeated(options)])
        reports = [
            r
            if r.rls is None
            else dataclasses.replace(r, rls=r.rls.replace(_RLS_COMMAND, repeated))
            for r in reports
        ]
        return _show_check(reports, as_json=options.json)
    try:
        return _rls(environ, options, identity)
    except ClientError as error:
        print(f"python -m clients rls: {error}", file=sys.stderr)
        return 2


def _repeated(options: argparse.Namespace) -> list[str]:
    """Return the flags of ``check`` that ``rls`` needs to find the same."""
    flags = {
        "--database-role": options.database_role,
        "--database-path": options.database_path,
        "--local-role": options.local_role,
    }
    given = [word for flag, value in flags.items() if value is not None for word in (flag, value)]
    for one in options.setting or ():
        given += ["--setting", one.text]
    return given


def _show_check(reports: list[ServiceReport], *, as_json: bool) -> int:
    healthy = all(report.healthy for report in reports)
    if as_json:
        services = [dataclasses.asdict(report) for report in reports]
        stats = {name: one for report in services for name, one in report.pop("stats").items()}
        print(json.dumps({"healthy": healthy, "services": services, "stats": stats}, indent=2))
    else:
        _print_table([_HEADER, *map(_row, reports)])
        for report in reports:
            print(f"{report.service}: {report.detail}")
        print("All infrastructure clients healthy!" if healthy else "Not healthy: see above.")
    return 0 if healthy else 1


class _Setting:
    """One ``--setting``, with the text that it was given as."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.name, equals, setting = text.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(
                f"{text!r} has no '=' in it: it must be like tenant_id=shop.tenant_id:int"
            )
        try:
            self.setting = RlsSetting.from_text(setting)
        except ConfigurationError as error:
            raise argparse.ArgumentTypeError(str(error)) from error


def _path_help(service: str) -> str:
    return (
        f"where its secret is in Vault, mount:path for another mount; FAILFAST_{service}_PATH, or "
        f"crm/{service.lower()}, when left out"
    )


def _rls(
    environ: Mapping[str, str] | None,
    options: argparse.Namespace,
    identity: Mapping[str, RlsSetting] | None,
) -> int:
    with (
        VaultClient(environ=environ) as vault,
        ExitStack() as stack,
    ):
        urls = SecretUrls.of(vault, environ, options.database_path)
        role = options.database_role
        url = stack.enter_context(url_for(vault, role, urls.database(role)))
        client = stack.enter_context(
            PostgresClient(
                url,
                1,
                min_size=1,
                admin_url=urls.database_admin if options.prove else None,
                # A role that bypasses is a finding among the others.
                on_rls_bypass="ignore",
                identity=identity,
                local_role=options.local_role,
            )
        )
        findings = client.check_rls()
        if options.prove:
            findings += proof_findings(client.prove_isolation())
    if options.sarif:
        print(as_sarif(findings))
    else:
        print(as_json(findings) if options.json else as_text(findings))
    return 1 if is_failure(findings, options.fail_on) else 0


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
