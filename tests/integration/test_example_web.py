"""The web recipes work: Flask, FastAPI, gunicorn with preload, and the manifest for Kubernetes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import kubernetes_validate
import psutil
import pytest
import yaml
from fastapi.testclient import TestClient

from clients import Clients, SessionStore, ValkeyClient, build_clients
from clients.identity import current_identity
from tests.examples import fastapi_app
from tests.examples.flask_app import create_app
from utils._stack.process import free_port
from utils._stack.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "tests/examples/kubernetes.yaml"


@pytest.fixture
def clients(stack: StackEndpoints) -> Iterator[Clients]:
    """Clients with a pool of two."""
    postgres: Any = {"pool_size": 2, "pool_timeout": 1.0}
    with build_clients(environ=stack.environment(), postgres=postgres) as found:
        yield found


def bearer(clients_or_valkey: Any, user: object) -> dict[str, str]:
    """Return the header of a request in a new session of the user."""
    return {"Authorization": f"Bearer {SessionStore(clients_or_valkey).create(str(user))}"}


# -- Flask --


def test_flask_serves_each_user_their_own_rows(clients: Clients) -> None:
    """The user of the session is the user of the queries, and of nothing after the request."""
    web = create_app(clients).test_client()
    ada, bob = (bearer(clients.valkey, uuid4()) for _ in range(2))

    made = web.post("/contacts", data={"name": "Grace"}, headers=ada)

    assert made.status_code == 201
    assert web.get("/contacts", headers=ada).json == ["Grace"]
    assert web.get("/contacts", headers=bob).json == []
    assert web.get("/contacts").status_code == 401
    assert web.post("/contacts", headers=ada).status_code == 400
    assert current_identity() == {}


def test_a_probe_says_that_a_busy_service_is_well(clients: Clients) -> None:
    """All connections are in use, and the readiness probe still succeeds."""
    web = create_app(clients).test_client()
    with clients.postgres.admin_connection() as one, clients.postgres.connection(uuid4()) as other:
        one.execute("SELECT 1")
        other.execute("SELECT 1")
        stats = clients.postgres.stats()
        ready = web.get("/ready")

    assert stats["max"] == 2
    assert ready.status_code == 200
    assert ready.json == {"postgres": "healthy", "valkey": "healthy"}


def test_a_probe_says_that_a_dead_service_is_dead(clients: Clients) -> None:
    """Readiness fails with the reason, and liveness does not."""
    web = create_app(clients).test_client()
    clients.valkey.close()

    ready = web.get("/ready")

    assert ready.status_code == 503
    assert ready.json is not None
    assert ready.json["postgres"] == "healthy"
    assert "closed" in ready.json["valkey"]
    assert web.get("/live").status_code == 200


# -- FastAPI --


@pytest.fixture
def fastapi(stack: StackEndpoints, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The application, started."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    with TestClient(fastapi_app.app) as client:
        yield client


def test_fastapi_serves_each_user_their_own_rows(fastapi: Any, stack: StackEndpoints) -> None:
    """Endpoints, threads of an endpoint and a streamed body all see the user of the session."""
    with ValkeyClient(stack.valkey_url) as valkey:
        ada, bob = (bearer(valkey, uuid4()) for _ in range(2))
    for name in ("Grace", "Hedy"):
        assert fastapi.post("/contacts", params={"name": name}, headers=ada).status_code == 201

    assert fastapi.get("/contacts", headers=ada).json() == ["Grace", "Hedy"]
    assert fastapi.get("/contacts.txt", headers=ada).text == "Grace\nHedy\n"
    assert fastapi.get("/summary", headers=ada).json() == {"contacts": 2, "tickets": 0}
    assert fastapi.get("/contacts", headers=bob).json() == []
    assert fastapi.get("/contacts.txt", headers=bob).text == ""
    assert fastapi.get("/contacts").status_code == 401
    assert current_identity() == {}


def test_fastapi_keeps_requests_apart_that_run_at_a_time(
    fastapi: Any, stack: StackEndpoints
) -> None:
    """Many users at once: each sees the own contact and no other."""
    with ValkeyClient(stack.valkey_url) as valkey:
        users = {str(n): bearer(valkey, uuid4()) for n in range(8)}

    def use(name: str) -> list[str]:
        headers = users[name]
        fastapi.post("/contacts", params={"name": name}, headers=headers)
        found: list[str] = fastapi.get("/contacts", headers=headers).json()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, users)) == [[name] for name in users]


# -- gunicorn --


@pytest.mark.slow
def test_gunicorn_forks_workers_that_share_no_connection(
    stack: StackEndpoints, tmp_path: Path
) -> None:
    """The application is loaded before the fork; each process has sessions of its own."""
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "-c", "tests/examples/gunicorn_conf.py"]
    with ValkeyClient(stack.valkey_url) as valkey:
        headers = bearer(valkey, uuid4())
    with log.open("wb") as output:
        master = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{port}", "--no-control-socket"],
            cwd=ROOT,
            env=child_environment(stack.environment()),
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/live", log, master)
        url, processes = f"http://127.0.0.1:{port}/contacts", []
        # Which worker takes a request is the system's choice.
        for _ in range(20):
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(lambda _: get(url, headers), range(16))) == [[]] * 16
            processes = [psutil.Process(master.pid), *psutil.Process(master.pid).children()]
            ports = [sessions_of(one, stack) for one in processes]
            if all(ports):
                break
    finally:
        master.send_signal(signal.SIGTERM)
        code = master.wait(30)

    text = log.read_text()
    assert code == 0, text
    assert "Traceback" not in text
    assert len(processes) == 3
    for n in (1, 2):
        # A forked process still holds what its parent had open, and does not use it.
        assert ports[n] - ports[0] - ports[3 - n], ports


@pytest.mark.slow
def test_gunicorn_does_not_start_with_a_wrong_address(tmp_path: Path) -> None:
    """The reason is in the log, and no worker is started again and again."""
    environ = {"VAULT_ADDR": f"http://127.0.0.1:{free_port()}", "VAULT_TOKEN": "none"}
    command = [sys.executable, "-m", "gunicorn", "-c", "tests/examples/gunicorn_conf.py"]
    done = subprocess.run(
        [*command, "--bind", f"127.0.0.1:{free_port()}", "--no-control-socket"],
        cwd=ROOT,
        env=child_environment(environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode != 0
    assert "VaultConnectionError: vault: " in done.stderr
    assert "Booting worker" not in done.stderr


def sessions_of(process: psutil.Process, stack: StackEndpoints) -> set[int]:
    """Return the local ports of the process's connections to PostgreSQL."""
    server = urlsplit(stack.database_url).port
    return {
        one.laddr.port
        for one in process.net_connections("tcp")
        if getattr(one.raddr, "port", None) == server
    }


def get(url: str, headers: dict[str, str] | None = None) -> Any:
    """Return what a page answers, as JSON where it is that."""
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - on loopback
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - likewise
        body = answer.read().decode()
    return json.loads(body) if body.startswith("[") else body


def wait_for(url: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers, or fail with its log."""
    deadline = time.monotonic() + 60
    while True:
        try:
            get(url)
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


# -- Kubernetes --


def documents() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.mark.parametrize("kind", ["ServiceAccount", "ClusterRoleBinding", "Deployment"])
def test_the_manifest_fits_the_schema_of_kubernetes(kind: str) -> None:
    """Every field is one that the API has, with a value of its type."""
    kubernetes_validate.validate(documents()[kind], "1.31", strict=True)


def test_the_service_account_of_the_pod_may_have_its_token_reviewed() -> None:
    """A Vault outside of the cluster reviews the pod's token with that token itself."""
    account, binding = documents()["ServiceAccount"]["metadata"], documents()["ClusterRoleBinding"]

    assert binding["roleRef"]["name"] == "system:auth-delegator"
    assert binding["subjects"] == [{"kind": "ServiceAccount"} | account]


def test_a_manifest_with_a_wrong_field_does_not_fit() -> None:
    """The check sees a misspelt field of a probe."""
    deployment = documents()["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["livenessProbe"]["periodSecond"] = 3

    with pytest.raises(kubernetes_validate.ValidationError, match="periodSecond"):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


def test_the_manifest_fits_the_application(clients: Clients) -> None:
    """Its probes are pages of the application, and its variables are those of the clients."""
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pages = {str(rule) for rule in create_app(clients).url_map.iter_rules()}
    reference = (ROOT / "clients/README.md").read_text()
    probes = [container[f"{one}Probe"] for one in ("liveness", "readiness", "startup")]

    assert {probe["httpGet"]["path"] for probe in probes} == {"/live", "/ready"} & pages
    assert all(f"`{one['name']}`" in reference for one in container["env"])
    assert pod["serviceAccountName"] == documents()["ServiceAccount"]["metadata"]["name"]
    assert (ROOT / container["command"][2]).is_file()
