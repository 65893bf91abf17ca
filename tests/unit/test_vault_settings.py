"""What a VaultClient is told, before anything is sent."""

from __future__ import annotations

import copy
import io
import os
import pickle
import traceback
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from clients import build_clients
from clients._shared.secrecy import Masked
from clients._vault.settings import GivenLogin, VaultOptions, resolve_options
from clients.errors import ConfigurationError, VaultConfigurationError, VaultError
from clients.vault_auth import Agent, AppRole, Jwt, Kubernetes, Token
from clients.vault_client import VaultClient
from tests.secret_walker import SENTINEL, leaks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ENV = {"VAULT_ADDR": "https://vault.test:8200", "VAULT_TOKEN": "hvs.ambient"}
_NOBODY = 65534
_ROLE = {"VAULT_ROLE_ID": "role", "VAULT_SECRET_ID": "secret-id"}


def _resolve(environ: dict[str, str] | None = None, **arguments: Any) -> VaultOptions:
    login: dict[str, Any] = {
        name: arguments.pop(name)
        for name in ("auth", "auth_method", "token", "role_id", "secret_id")
        if name in arguments
    }
    for given in (login, arguments):
        for name in {"addr", "token", "role_id", "secret_id"}.intersection(given):
            given[name] = Masked(given[name])
    defaults: dict[str, Any] = {
        "addr": None,
        "login": GivenLogin(**login),
        "namespace": None,
        "mount_point": "secret",
        "timeout": 10.0,
        "retries": 3,
        "cache_ttl": 300.0,
        "environ": _ENV if environ is None else environ,
    }
    return resolve_options(**(defaults | arguments))


def test_every_missing_name_stands_in_one_error() -> None:
    """Nobody has to run the program twice to learn of the second missing variable."""
    with pytest.raises(VaultError, match=r"^VAULT_ADDR not set; VAULT_TOKEN not set: ") as caught:
        _resolve({})
    assert isinstance(caught.value, ConfigurationError)
    with pytest.raises(
        VaultError, match=r"VAULT_ADDR not set; VAULT_ROLE_ID .*VAULT_SECRET_ID not"
    ):
        _resolve({"VAULT_TOKEN": "t"}, auth_method="approle")
    with pytest.raises(VaultError, match=r"^VAULT_TOKEN not set"):
        _resolve({"VAULT_ADDR": "http://h", "VAULT_TOKEN": "  "})


def test_arguments_stand_over_the_environment() -> None:
    """What the caller spells out wins."""
    options = _resolve(addr="http://other:1/", token="mine", namespace="team-a/")

    assert (options.addr, options.namespace) == ("http://other:1", "team-a")
    assert isinstance(options.auth, Token)
    assert isinstance(options.auth.token, Masked)
    assert options.auth.token.reveal() == "mine"


@pytest.mark.parametrize(
    ("environ", "arguments", "method"),
    [
        (_ENV, {}, "token"),
        (_ENV | _ROLE, {}, "token"),
        (_ENV | _ROLE, {"auth_method": "approle"}, "approle"),
        ({"VAULT_ADDR": "http://h"} | _ROLE, {}, "approle"),
        (_ENV, {"role_id": "r", "secret_id": "s"}, "approle"),
        ({"VAULT_ADDR": "http://h"} | _ROLE, {"token": "t"}, "token"),
    ],
)
def test_the_method_follows_from_the_credentials(
    environ: dict[str, str], arguments: dict[str, str], method: str
) -> None:
    """AppRole is chosen when a role id is there and no token; arguments are looked at first."""
    assert _resolve(environ, **arguments).auth_method == method


_ADDR = {"VAULT_ADDR": "https://h"}
_FILE = {"VAULT_TOKEN_FILE": "/run/token"}


@pytest.mark.parametrize(
    ("environ", "method"),
    [
        ({"VAULT_TOKEN": "t"} | _FILE | _ROLE, "token"),
        ({"BAO_TOKEN": "t"} | _FILE | _ROLE, "token"),
        (_FILE | _ROLE, "token_file"),
        (_FILE | {"VAULT_TOKEN": " "}, "token_file"),
        (_FILE | {"VAULT_AUTH_METHOD": "token"}, "token_file"),
        ({"VAULT_ROLE_ID": "r", "VAULT_SECRET_ID_FILE": "/run/id"}, "approle"),
        ({"VAULT_ROLE_ID": "r", "VAULT_WRAPPED_SECRET_ID": "w"}, "approle"),
        (
            {"VAULT_TOKEN": "t", "VAULT_AUTH_METHOD": "kubernetes", "VAULT_AUTH_ROLE": "r"},
            "kubernetes",
        ),
        (_FILE | {"VAULT_AUTH_METHOD": "jwt", "VAULT_AUTH_ROLE": "r"}, "jwt"),
        ({"VAULT_AUTH_METHOD": "cert", "VAULT_CLIENT_CERT": pytest.__file__}, "cert"),
        ({"VAULT_TOKEN": "t", "VAULT_AUTH_METHOD": "agent"}, "agent"),
    ],
)
def test_the_environment_has_one_order_of_logins(environ: dict[str, str], method: str) -> None:
    """VAULT_AUTH_METHOD, then VAULT_TOKEN, VAULT_TOKEN_FILE and VAULT_ROLE_ID."""
    assert _resolve(_ADDR | environ).auth_method == method


def test_role_and_mount_of_the_environment_are_for_its_own_method() -> None:
    """A role id that the caller spells out does not go to the mount that is meant for another."""
    environ = _ADDR | {
        "VAULT_AUTH_METHOD": "kubernetes",
        "VAULT_AUTH_ROLE": "r",
        "VAULT_AUTH_MOUNT": "k8s/prod",
    }
    auth = _resolve(environ).auth
    assert isinstance(auth, Kubernetes)
    assert (auth.role, auth.mount) == ("r", "k8s/prod")
    other = _resolve(environ, role_id="r", secret_id="s").auth
    assert isinstance(other, AppRole)
    assert other.mount == "approle"
    mounted = _resolve(_ADDR | _ROLE | {"VAULT_AUTH_MOUNT": "ours"}).auth
    assert isinstance(mounted, AppRole)
    assert mounted.mount == "ours"


@pytest.mark.parametrize(
    ("environ", "arguments", "names"),
    [
        ({}, {"auth": Agent(), "token": "t"}, ["auth", "token"]),
        ({}, {"auth": Agent(), "auth_method": "agent"}, ["auth", "auth_method"]),
        ({}, {"token": "t", "role_id": "r", "secret_id": "s"}, ["token", "role_id", "secret_id"]),
        ({}, {"token": "t", "auth_method": "approle"}, ["token", "auth_method='approle'"]),
        ({}, {"role_id": "r", "auth_method": "agent"}, ["role_id", "auth_method='agent'"]),
        (_ROLE | {"VAULT_SECRET_ID_FILE": "/x"}, {}, ["VAULT_SECRET_ID", "VAULT_SECRET_ID_FILE"]),
    ],
)
def test_a_contradiction_is_refused_by_name(
    environ: dict[str, str], arguments: dict[str, Any], names: list[str]
) -> None:
    """What is given twice, or for two logins, is not chosen from in silence."""
    with pytest.raises(VaultConfigurationError, match="contradict") as caught:
        _resolve(_ADDR | environ, **arguments)

    assert caught.value.reason == "contradiction"
    assert [name for name in names if name not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({"VAULT_AUTH_METHOD": "kubernetes"}, "VAULT_ADDR not set; VAULT_AUTH_ROLE not set"),
        ({"VAULT_AUTH_METHOD": "jwt"}, "VAULT_AUTH_ROLE not set; VAULT_TOKEN_FILE not set"),
        ({"VAULT_AUTH_METHOD": "token_file"}, "VAULT_TOKEN_FILE not set"),
        (_ADDR | {"VAULT_AUTH_METHOD": "cert"}, "^VAULT_CLIENT_CERT not set"),
        (_ADDR | {"VAULT_ROLE_ID": "r"}, "^VAULT_SECRET_ID not set"),
        (_ADDR | {"VAULT_SECRET_ID": "s"}, "^VAULT_ROLE_ID not set"),
        (_ADDR | {"VAULT_SECRET_ID_FILE": "/s"}, "^VAULT_ROLE_ID not set"),
        (_ADDR | {"VAULT_WRAPPED_SECRET_ID": "s"}, "^VAULT_ROLE_ID not set"),
    ],
)
def test_each_method_names_what_it_misses(environ: dict[str, str], missing: str) -> None:
    """All of it in one error."""
    with pytest.raises(VaultConfigurationError, match=missing):
        _resolve(environ)


def test_an_object_that_is_no_login_is_refused() -> None:
    """A name in place of an object is the commonest mistake."""
    with pytest.raises(VaultConfigurationError, match="auth is str: it must be an object of"):
        _resolve(auth="kubernetes")
    with pytest.raises(VaultConfigurationError, match=r"VAULT_AUTH_METHOD is 'k8s'.*kubernetes"):
        _resolve(_ENV | {"VAULT_AUTH_METHOD": "k8s"})


@pytest.mark.parametrize("make", [
    lambda: Token(_sentinel()), lambda: Token(wrapped=_sentinel()),
    lambda: AppRole("role", _sentinel()),
    lambda: AppRole("role", wrapped_secret_id=_sentinel()),
    lambda: Jwt("role", f"{_sentinel()}.x.y"),
])  # fmt: skip
def test_a_login_object_shows_no_secret(make: Callable[[], object]) -> None:
    """Neither its repr nor a pickle does, and it cannot be changed."""
    auth: Any = make()

    assert "SENTINEL" not in repr(auth) + str(auth)
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(auth)
    with pytest.raises(FrozenInstanceError):
        setattr(auth, fields(auth)[0].name, "x")


def _sentinel() -> str:
    return "SENTINEL-value"


def test_an_app_role_has_one_secret_id() -> None:
    """None, and two, are refused by name."""
    with pytest.raises(VaultConfigurationError, match="no secret id: pass exactly one of"):
        AppRole("role")
    with pytest.raises(VaultConfigurationError, match="given secret_id and secret_id_file"):
        AppRole("role", "id", secret_id_file="/x")


def test_a_token_is_stripped() -> None:
    """The newline that `$(cat file)` or an editor leaves is no part of a token."""
    assert _resolve(_ENV, token=" hvs.x\n").secrets() == ("hvs.x",)


@pytest.mark.parametrize("token", ["hvs.SEN\nTINEL", "hvs.SEN TINEL", "hvs.SENTINÉL", "SEN\x00T"])
def test_an_unfit_token_is_refused_without_being_shown(token: str) -> None:
    """The HTTP library would print such a token in its error."""
    with pytest.raises(VaultConfigurationError, match="VAULT_TOKEN has a blank") as caught:
        _resolve(token=token)

    assert "SEN" not in str(caught.value)


@pytest.mark.parametrize(
    ("addr", "problem"),
    [
        ("vault.test:8200", "no http"),
        ("ftp://vault.test", "no http"),
        ("http://", "no host"),
        ("http://user:pa/ss@vault.test", "no URL|user name"),
        ("http://user:pass@vault.test", "user name"),
        ("http://vault.test:port", "no URL"),
        ("http://vault.test:99999", "no URL"),
        ("http://vault.test/v1", "has a path"),
        ("http://vault.test/v1/", "has a path"),
        ("http://vault.test/vault", "has a path"),
        ("https://example.test//ui/vault/", "has a path"),
        ("http://vault.test?x=1", "query"),
        ("http://va ult.test", "no URL"),
        ("http://[::1", "no URL"),
    ],
)
def test_a_bad_address_is_refused_without_its_password(addr: str, problem: str) -> None:
    """Each malformed address has its own message, and none repeats a password."""
    with pytest.raises(VaultConfigurationError, match=problem) as caught:
        _resolve(addr=addr)

    assert "pass@" not in str(caught.value)
    assert "pa/ss" not in str(caught.value)


@pytest.mark.parametrize(
    "addr", [f"http://app:{SENTINEL}@h", f"h/{SENTINEL}", f"http://h?{SENTINEL}"]
)
def test_no_frame_of_a_refused_address_shows_its_password(
    monkeypatch: pytest.MonkeyPatch, addr: str
) -> None:
    """Whether it came as an argument, from a mapping or from the environment."""
    monkeypatch.setenv("VAULT_ADDR", addr)
    monkeypatch.setenv("VAULT_TOKEN", "x")
    calls: list[Callable[[], object]] = [
        VaultClient,
        build_clients,
        lambda: VaultClient(addr, "x", environ={}),
        lambda: build_clients(environ=os.environ.copy()),
    ]
    for call in calls:
        assert leaks_of(call, SENTINEL) == []


def test_the_scheme_of_an_address_may_be_in_capitals() -> None:
    """RFC 3986, section 3.1; a login by certificate wants TLS all the same."""
    assert _resolve(addr="HTTPS://vault.test/").addr == "https://vault.test"


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": True},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "10"},
        {"timeout": 1e10},
        {"timeout": 10**400},
        {"cache_ttl": 10**400},
        {"retries": -1},
        {"retries": -(10**5000)},
        {"retries": 1.5},
        {"retries": True},
        {"cache_ttl": -1},
        {"cache_ttl": None},
        {"cache_ttl": float("nan")},
        {"auth_method": "ldap"},
        {"namespace": "a b"},
        {"namespace": "team-a/.."},
        {"mount_point": "a/../b"},
        {"mount_point": ""},
    ],
)
def test_an_unfit_setting_is_named(arguments: dict[str, Any]) -> None:
    """A wrong number or word is refused before anything is sent."""
    (name,) = arguments
    with pytest.raises(VaultConfigurationError, match=f"(?i){name.replace('_', '[_ ]')}"):
        _resolve(**arguments)


def test_tls_settings_come_from_the_environment(tmp_path: Path) -> None:
    """CA, client certificate and skip-verify are read at construction."""
    pem = tmp_path / "x.pem"
    pem.touch()
    env = _ENV | {"VAULT_CACERT": str(pem), "VAULT_CLIENT_CERT": str(pem)}

    assert _resolve(env).verify == str(pem)
    assert _resolve(env).cert == str(pem)
    assert _resolve(env | {"VAULT_CLIENT_KEY": str(pem)}).cert == (str(pem), str(pem))
    assert _resolve(_ENV | {"VAULT_SKIP_VERIFY": "true"}).verify is False
    assert _resolve().verify is True


@pytest.mark.parametrize(
    "extra",
    [
        {"VAULT_CACERT": "/does/not/exist"},
        {"VAULT_CLIENT_CERT": "/does/not/exist"},
        {"VAULT_CLIENT_KEY": __file__},
        {"VAULT_SKIP_VERIFY": "perhaps"},
    ],
)
def test_an_unusable_tls_setting_is_named(extra: dict[str, str]) -> None:
    """A missing file is the Vault client's error at construction, not an OSError at first use."""
    (name,) = extra
    with pytest.raises(VaultConfigurationError, match=name.split("_CLIENT")[0]):
        _resolve(_ENV | extra)


@pytest.mark.parametrize("name", ["VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"])
def test_a_key_with_a_password_is_refused(tmp_path: Path, name: str) -> None:
    """The TLS library would wait at the terminal for somebody to type it."""
    plain, locked = tmp_path / "plain.pem", tmp_path / "locked.pem"
    plain.touch()
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    files = {"VAULT_CLIENT_CERT": str(plain), "VAULT_CLIENT_KEY": str(plain), name: str(locked)}
    with pytest.raises(VaultConfigurationError, match=f"{name} names .*needs a password"):
        _resolve(_ENV | files)


@pytest.mark.parametrize("name", ["VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"])
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_file_that_we_may_not_read_is_named(name: str, closed: str) -> None:
    """Certificates often belong to another user: the variable is named, as for a missing file."""
    with _folder_of_an_ordinary_user() as folder:
        plain, shut = folder / "plain.pem", folder / "inner" / "shut.pem"
        shut.parent.mkdir()
        plain.touch()
        shut.touch()
        (shut if closed == "file" else shut.parent).chmod(0)
        files = {"VAULT_CLIENT_CERT": str(plain), "VAULT_CLIENT_KEY": str(plain), name: str(shut)}
        with pytest.raises(VaultConfigurationError, match=f"{name} names .*shut.pem.*can be read"):
            _resolve(_ENV | files)
        shut.parent.chmod(0o700)


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    """To open one waits for whoever writes into it, and the TLS library needs it more than once."""
    os.mkfifo(tmp_path / "pipe.pem")
    with pytest.raises(VaultConfigurationError, match=r"VAULT_CACERT names .*pipe\.pem"):
        _resolve(_ENV | {"VAULT_CACERT": str(tmp_path / "pipe.pem")})


@contextmanager
def _folder_of_an_ordinary_user() -> Iterator[Path]:
    """Be somebody whom permissions bind, root included, with a folder to try it in."""
    root = os.geteuid() == 0
    with TemporaryDirectory() as folder:
        if root:
            os.chown(folder, _NOBODY, -1)
            os.seteuid(_NOBODY)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("source", ["process", "mapping"])
@pytest.mark.parametrize("bad", [{"VAULT_SKIP_VERIFY": "perhaps"}, {"VAULT_ADDR": "ftp://x"}])
def test_the_environment_is_not_shown_by_a_failing_frame(
    monkeypatch: pytest.MonkeyPatch, source: str, bad: dict[str, str]
) -> None:
    """Its variables hold the token, and error reporters collect local variables."""
    for name, value in ({"VAULT_ADDR": "http://h", "VAULT_TOKEN": "SENTINEL"} | bad).items():
        monkeypatch.setenv(name, value)
    error = _failure_of_construction(source)
    shown = io.StringIO()
    traceback.TracebackException.from_exception(error, capture_locals=True).print(file=shown)

    assert [line for line in shown.getvalue().splitlines() if "SENTINEL" in line] == []


def _failure_of_construction(source: str) -> VaultError:
    try:
        VaultClient(environ=None if source == "process" else os.environ.copy())
    except VaultError as error:
        return error
    raise AssertionError("it was to fail")


def test_a_masked_value_does_not_show() -> None:
    """Neither a repr, nor a pickle, nor a copy gives a secret away."""
    options = _resolve(token="hvs.SENTINEL")

    assert "SENTINEL" not in repr(options)
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="secret"):
            leak(options)
