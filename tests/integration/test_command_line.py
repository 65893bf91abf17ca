"""``python -m clients check`` and ``python -m clients rls``."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

import psycopg
import pytest

from clients import CredentialLife
from clients.__main__ import ServiceReport, _row, main
from tests.vault_servers import SealableOpenBao
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from tests.rotation_lab import RotationLab
    from tests.vault_fixtures import VaultLab
    from utils._stack.postgres import PostgresServer
    from utils.local_stack import StackEndpoints


def test_check_ends_with_a_table_and_the_good_news(
    stack: StackEndpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    """All healthy: exit code 0, a row for each service, and the last line says so."""
    code = main(["check"], stack.environment())
    lines = capsys.readouterr().out.splitlines()

    assert code == 0
    assert lines[0].split() == [
        "SERVICE",
        "STATUS",
        "REACHABLE",
        "LOGIN",
        "VERSION",
        "LATENCY",
        "RLS",
        "CREDENTIAL",
    ]
    assert [line.split()[:4] for line in lines[1:4]] == [
        [service, "healthy", "yes", "yes"] for service in ("vault", "postgres", "valkey")
    ]
    assert "enforced" in lines[2]
    assert lines[-1] == "All infrastructure clients healthy!"


def test_check_speaks_json(stack: StackEndpoints, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as JSON, with versions and latencies."""
    code = main(["check", "--json"], stack.environment())
    report = json.loads(capsys.readouterr().out)

    assert code == 0
    assert report["healthy"] is True
    assert [one["service"] for one in report["services"]] == ["vault", "postgres", "valkey"]
    assert all(one["latency"] > 0 and one["version"] for one in report["services"])
    # The token was made when the stack was seeded, and lives for 32 days; the URLs have no end.
    assert all(0 < one["credential"]["age"] < 86_400 for one in report["services"])
    assert 31 * 86_400 < report["services"][0]["credential"]["remaining"] <= 32 * 86_400
    assert [one["credential"]["remaining"] for one in report["services"][1:]] == [None, None]
    assert list(report["stats"]) == ["vault", "postgres", "postgres admin", "valkey"]
    assert report["stats"]["postgres"]["max"] == 1
    assert report["stats"]["vault"]["cache_misses"] > 0
    assert not any("stats" in one for one in report["services"])


def test_an_identity_can_be_spelled(
    stack: StackEndpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    """--setting says which setting each value has, and --local-role which role users have."""
    environ = stack.environment()
    words = ["--setting", "user_id=app.current_user_id:uuid", "--local-role", "crm_user"]
    for command in ("check", "rls"):
        assert main([command, *words], environ) == 0
        capsys.readouterr()
        assert main([command, "--local-role", "nobody_there"], environ) == (command == "rls") + 1
        captured = capsys.readouterr()
        assert "local_role 'nobody_there'" in captured.out + captured.err
        for wrong in ("user_id", "user_id=uuid", "user_id=app.user_id:float", "=app.user_id"):
            if wrong.startswith("="):
                assert main([command, "--setting", wrong], environ) == (command == "rls") + 1
                continue
            with pytest.raises(SystemExit) as caught:
                main([command, "--setting", wrong], environ)
            assert caught.value.code == 2


def test_an_identity_may_stand_in_the_environment(
    stack: StackEndpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    """FAILFAST_IDENTITY is what --setting spells, with commas; the option stands over it."""
    environ = stack.environment()
    # No policy of the development stack reads these.
    both = "user_id=shop.user_id:str, tenant_id=shop.tenant_id:int,"
    option = ["--setting", "user_id=app.current_user_id"]
    found = []
    for variable, words in (
        (both, []),
        ("", [word for part in both.strip(",").split(",") for word in ("--setting", part.strip())]),
        ("tenant_id=tenant_id", option),
        (" ", []),
    ):
        code = main(["rls", "--json", *words], environ | {"FAILFAST_IDENTITY": variable})
        found.append((code, json.loads(capsys.readouterr().out)))

    assert found[0] == found[1] != found[2]
    assert found[2] == found[3]
    assert found[3][0] == 0
    with pytest.raises(SystemExit) as caught:
        main(["check"], environ | {"FAILFAST_IDENTITY": "user_id=app.current_user_id,tenant_id"})
    assert caught.value.code == 2
    assert "FAILFAST_IDENTITY: 'tenant_id' has no '=' in it" in capsys.readouterr().err


@pytest.mark.parametrize("is_option", [True, False])
def test_a_value_of_the_identity_has_one_setting(
    capsys: pytest.CaptureFixture[str], *, is_option: bool
) -> None:
    """The last of two does not win in silence."""
    two = ["tenant_id=shop.tenant_id:int", "tenant_id=shop.tenant:int"]
    options = [word for one in two for word in ("--setting", one)] if is_option else []
    with pytest.raises(SystemExit) as caught:
        main(["rls", *options], {} if is_option else {"FAILFAST_IDENTITY": ",".join(two)})

    assert caught.value.code == 2
    assert "named twice" in capsys.readouterr().err


def test_check_uses_leased_credentials_and_leaves_none(
    rotation_lab: RotationLab, capsys: pytest.CaptureFixture[str]
) -> None:
    """With roles: their remaining life is shown, their users are gone afterwards."""
    lab = rotation_lab
    roles = [
        f"--database-role={lab.dynamic_role(ttl=3600, max_ttl=7200)}",
        f"--valkey-role={lab.dynamic_cache_role(ttl=3600, max_ttl=7200)}",
    ]

    code = main(["check", *roles], lab.environ(lab.role()))
    out = capsys.readouterr().out

    assert code == 0, out
    assert len(re.findall(r"\d s old, 60 min left$", out, re.MULTILINE)) == 3
    assert main(["rls", roles[0]], lab.environ(lab.role())) == 0
    assert (lab.database_users(), lab.cache_users()) == (set(), set())


@pytest.mark.parametrize(
    ("life", "shown"),
    [
        (CredentialLife(0.4), "0 s old"),
        (CredentialLife(119.0, 7200.0), "119 s old, 2 h left"),
        (CredentialLife(172_800.0, 150.0), "2 d old, 2 min left"),
    ],
)
def test_a_life_is_shown_in_the_unit_that_fits(life: CredentialLife, shown: str) -> None:
    """Seconds, minutes, hours, days."""
    report = ServiceReport(service="vault", healthy=True, detail="", credential=life)

    assert _row(report)[-1] == shown


def test_check_without_vault_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], closed_port: int
) -> None:
    """No Vault: exit code 1, the reason, and the others marked as not tried."""
    code = main(["check"], {"VAULT_ADDR": f"http://127.0.0.1:{closed_port}", "VAULT_TOKEN": "x"})
    out = capsys.readouterr().out

    assert code == 1
    assert "not tried: its URL is in Vault" in out
    assert out.splitlines()[-1] == "Not healthy: see above."


def test_check_without_settings_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty environment: exit code 1, and every missing variable."""
    code = main(["check", "--json"], {})
    vault = json.loads(capsys.readouterr().out)["services"][0]

    assert code == 1
    assert "VAULT_ADDR" in vault["detail"]
    assert "VAULT_TOKEN" in vault["detail"]


def test_check_tells_a_refused_login_from_an_unreachable_server(
    stack: StackEndpoints,
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong password: reachable, not authenticated; and no password in the output."""
    vault_lab.write(
        "crm/database", {"url": stack.database_url.replace("crm_user:", "crm_user:wrong")}
    )

    code = main(["check", "--json"], own_secrets)
    out = capsys.readouterr().out
    postgres, valkey = json.loads(out)["services"][1:]

    assert code == 1
    assert (postgres["reachable"], postgres["authenticated"]) == (True, False)
    assert valkey["healthy"] is True
    assert stack.database_url.split("@")[0].rsplit(":", 1)[1] not in out


@pytest.mark.parametrize(
    ("spoil", "mend", "expected"),
    [
        ("ALTER ROLE crm_user NOLOGIN", "ALTER ROLE crm_user LOGIN", [True, False]),
        (
            "ALTER ROLE crm_user CONNECTION LIMIT 0",
            "ALTER ROLE crm_user CONNECTION LIMIT -1",
            [True, None],
        ),
        (
            "ALTER DATABASE crm RENAME TO gone",
            "ALTER DATABASE gone RENAME TO crm",
            [True, None],
        ),
        (
            "REVOKE USAGE ON SCHEMA pg_catalog FROM public",
            "GRANT USAGE ON SCHEMA pg_catalog TO public",
            [True, True],
        ),
    ],
)
def test_check_says_how_far_it_came_with_postgres(
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    own_postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    spoil: str,
    mend: str,
    expected: list[bool | None],
) -> None:
    """A server that answers with a refusal is reachable, whatever it refuses."""
    vault_lab.write("crm/database", {"url": own_postgres.url("crm_user", "secret")})
    administrator = own_postgres.url(dbname="crm" if "SCHEMA" in spoil else "postgres")
    with psycopg.connect(administrator, autocommit=True) as conn:
        conn.execute(spoil)
        try:
            code = main(["check", "--json"], own_secrets)
        finally:
            conn.execute(mend)

    assert (code, _how_far(capsys, "postgres")) == (1, expected)


@pytest.mark.parametrize(
    ("database", "valkey", "expected"),
    [
        ("postgresql://u:secret@127.0.0.1:1/x", "redis://:secret@127.0.0.1:1/0", [False, None]),
        ("no URL", "http://127.0.0.1", [None, None]),
        ("", "", [None, None]),
    ],
)
def test_check_says_what_was_not_reached_or_not_tried(
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    database: str,
    valkey: str,
    expected: list[bool | None],
) -> None:
    """Nobody listens: not reachable, no login. No usable URL in Vault: nothing was tried."""
    vault_lab.write("crm/database", {"url": database})
    vault_lab.write("crm/valkey", {"url": valkey})

    code = main(["check", "--json"], own_secrets)

    assert code == 1
    assert _how_far(capsys, "postgres", "valkey") == expected * 2


def test_check_says_how_far_it_came_with_valkey(
    vault_lab: VaultLab, own_secrets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong password, a user without rights, a database that is not there: all are answers."""
    with ValkeyServer(directives=("user limited on >secret +auth",)) as server:
        found = []
        for url in (
            server.url.replace("//:", "//:wrong"),
            f"redis://limited:secret@127.0.0.1:{server.port}",
            server.url.replace("/0", "/99"),
        ):
            vault_lab.write("crm/valkey", {"url": url})
            main(["check", "--json"], own_secrets)
            found.append(_how_far(capsys, "valkey"))

    assert found == [[True, False], [True, True], [True, None]]


def test_check_says_that_a_sealed_vault_was_reached(capsys: pytest.CaptureFixture[str]) -> None:
    """It answers; whether it would accept the token, nobody knows."""
    with SealableOpenBao() as server:
        code = main(["check", "--json"], {"VAULT_ADDR": server.url, "VAULT_TOKEN": "a-token"})

    assert (code, _how_far(capsys, "vault")) == (1, [True, None])


def test_check_tries_the_administrators_url_too(
    stack: StackEndpoints,
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What build_clients() would stumble over, the check finds."""
    wrong = stack.admin_url.replace("crm_admin:", "crm_admin:wrong")
    vault_lab.write("crm/database", {"url": stack.database_url, "admin_url": wrong})

    assert main(["check"], own_secrets) == 1
    assert 'authentication failed for user "crm_admin"' in capsys.readouterr().out


def test_check_refuses_a_role_that_bypasses_row_level_security(
    stack: StackEndpoints,
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The application's URL with the administrator's role: the verdict is: bypassed."""
    vault_lab.write("crm/database", {"url": stack.admin_url})

    code = main(["check", "--json"], own_secrets)
    postgres = json.loads(capsys.readouterr().out)["services"][1]

    assert code == 1
    assert (
        postgres["reachable"],
        postgres["authenticated"],
        postgres["rls"],
    ) == (True, True, "bypassed")


def test_rls_has_no_findings_on_the_projects_own_schema(
    stack: StackEndpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped SQL is clean: exit code 0."""
    code = main(["rls"], stack.environment())

    assert (code, capsys.readouterr().out) == (0, "Row-level security: no findings.\n")


def test_rls_reports_an_open_table_with_the_mend(
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    own_postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A table without protection: exit code 1, and the SQL that mends it, also as JSON."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        conn.execute("CREATE TABLE open_notes (user_id uuid)")
        conn.execute("GRANT SELECT ON open_notes TO crm_user")
        try:
            vault_lab.write("crm/database", {"url": own_postgres.url("crm_user", "secret")})

            code = main(["rls", "--json"], own_secrets)
            findings = json.loads(capsys.readouterr().out)

            assert code == 1
            assert "open_notes" in findings[0]["object"]
            assert "ENABLE ROW LEVEL SECURITY" in findings[0]["fix"]

            assert main(["rls"], own_secrets) == 1
            text = capsys.readouterr().out
            assert "ENABLE ROW LEVEL SECURITY" in text
            assert text.endswith("\n1 finding\n")

            assert main(["check"], own_secrets) == 1
            text = capsys.readouterr().out
            assert "1 finding: python -m clients rls" in text
            assert text.endswith("Not healthy: see above.\n")

            flags = ["--database-path", "crm/database", "--local-role", "crm_user"]
            flags += ["--setting", "user_id=app.current_user_id:uuid?"]
            assert main(["check", *flags], own_secrets) == 1
            told = capsys.readouterr().out.split(" finding: ")[1].split("  ")[0]
            _, _, _, *words = shlex.split(told)
            assert sorted(words) == sorted(["rls", *flags])
            assert main(words, own_secrets) == 1
        finally:
            conn.execute("DROP TABLE open_notes")


def test_rls_without_vault_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """It could not look: exit code 2, the reason on standard error."""
    code = main(["rls"], {})

    assert code == 2
    assert "VAULT_ADDR not set" in capsys.readouterr().err


def _how_far(capsys: pytest.CaptureFixture[str], *services: str) -> list[bool | None]:
    reports = json.loads(capsys.readouterr().out)["services"]
    return [
        report[stage]
        for report in reports
        if report["service"] in services
        for stage in ("reachable", "authenticated")
    ]
