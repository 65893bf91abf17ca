"""The development stack in containers, for Compose v2 and docker-compose 1.29 alike."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from utils._stack.openbao import vault_answers
from utils._stack.process import StackError
from utils._stack.seed import seed_stack
from utils._stack.settings import child_environment
from utils._stack.valkey import valkey_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from utils._stack.endpoints import StackEndpoints
    from utils._stack.settings import StackSettings

__all__ = ["DockerStack", "compose_command"]

_READY_TIMEOUT = 180.0


def compose_command() -> list[str]:
    """Return the Compose command of this machine: v2 where there is one, else 1.x.

    Raises:
        StackError: There is neither.
    """
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise StackError("STACK=docker needs 'docker compose' or 'docker-compose' on the PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerStack:
    """Three containers on loopback ports, with passwords of this run alone.

    Args:
        project: Compose's project name.
        ports: The host ports; they come from ``StackSettings``.
    """

    project: str
    ports: StackSettings
    token: str = field(default_factory=lambda: f"dev-{secrets.token_urlsafe(16)}", repr=False)
    # Valkey would read a password that begins with two hyphens as an option's name.
    password: str = field(default_factory=lambda: f"dev-{secrets.token_urlsafe(16)}", repr=False)

    @property
    def compose_file(self) -> Path:
        """The project's ``docker-compose.yml``."""
        return Path(__file__).parents[2] / "docker-compose.yml"

    def compose_environment(self) -> dict[str, str]:
        """Return the variables that ``docker-compose.yml`` reads."""
        return {
            "SDK_VAULT_PORT": str(self.ports.vault_port),
            "SDK_POSTGRES_PORT": str(self.ports.postgres_port),
            "SDK_VALKEY_PORT": str(self.ports.valkey_port),
            "SDK_VAULT_DEV_TOKEN": self.token,
            "SDK_POSTGRES_DEV_PASSWORD": self.password,
            "SDK_VALKEY_DEV_PASSWORD": self.password,
        }

    @property
    def vault_addr(self) -> str:
        """Vault's URL on this host."""
        return f"http://127.0.0.1:{self.ports.vault_port}"

    @property
    def superuser_url(self) -> str:
        """PostgreSQL's URL on this host, as superuser."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.ports.postgres_port}/crm"

    def start(self) -> StackEndpoints:
        """Start the containers, wait for all three, and seed them.

        Raises:
            StackError: Compose refused, or a server did not answer in time; nothing is left.
        """
        try:
            # Without --wait, which docker-compose 1.29 does not know.
            self._compose("up", "-d")
            self.wait()
            return self.seed()
        except BaseException:
            self.close(check=False)
            raise

    def wait(self) -> None:
        """Wait until all three answer.

        Raises:
            StackError: One ended, or did not answer within three minutes; with the end of the logs.
        """
        deadline = time.monotonic() + _READY_TIMEOUT
        while silent := self.silent():
            if ended := sorted(set(silent) - self._running()):
                raise self._failure(ended, "ended while starting")
            if time.monotonic() > deadline:
                raise self._failure(silent, f"did not answer within {_READY_TIMEOUT:.0f} s")
            time.sleep(0.5)

    def silent(self) -> list[str]:
        """Return which of the three do not answer their own protocol yet."""
        answers = {
            "vault": vault_answers(self.vault_addr, self.token),
            "postgres": self._postgres_answers(),
            "valkey": valkey_answers(self.ports.valkey_port, self.password),
        }
        return [service for service, answered in answers.items() if not answered]

    def seed(self) -> StackEndpoints:
        """Seed the servers, and return how they are reached."""
        return seed_stack(
            vault_addr=self.vault_addr,
            vault_root_token=self.token,
            superuser_url=self.superuser_url,
            valkey_url=f"redis://:{self.password}@127.0.0.1:{self.ports.valkey_port}/0",
        )

    def close(self, *, check: bool = True) -> None:
        """Remove the containers and their volumes.

        Args:
            check: Whether to raise when that fails; not while another failure is on its way out.

        Raises:
            StackError: Compose failed, and containers may still be there.
        """
        self._compose("down", "-v", "--remove-orphans", check=check)

    def _running(self) -> set[str]:
        return set(self._compose("ps", "--services", "--filter", "status=running").split())

    def _failure(self, services: list[str], what: str) -> StackError:
        logs = self._compose("logs", "--no-color", "--tail=20", *services, check=False)
        return StackError(f"{', '.join(services)} {what}:\n{logs}")

    def _postgres_answers(self) -> bool:
        try:
            psycopg.connect(self.superuser_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _compose(self, *words: str, check: bool = True) -> str:
        command: Sequence[str] = [
            *compose_command(), "-p", self.project, "-f", str(self.compose_file), *words,
        ]  # fmt: skip
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=child_environment(self.compose_environment()),
        )
        if check and done.returncode:
            raise StackError(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
                f"{_hint(done.stdout)}"
            )
        return done.stdout


def _hint(output: str) -> str:
    if "already allocated" in output or "already in use" in output:
        return "SDK_VAULT_PORT, SDK_POSTGRES_PORT and SDK_VALKEY_PORT choose other ports"
    return ""
