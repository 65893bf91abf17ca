"""The Docker stack, as far as it can be judged without an engine."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from utils._stack import keeper as _stack_keeper
from utils._stack.docker import DockerStack, compose_command
from utils._stack.process import StackError
from utils._stack.settings import StackSettings

ROOT = Path(__file__).parents[2]


def _fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An otherwise empty PATH: what is put there is all that the machine has."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_compose_v2_is_preferred(programs: Path) -> None:
    """Where ``docker compose`` answers, it is used."""
    _fake(programs, "docker", "exit 0")
    _fake(programs, "docker-compose", "exit 0")

    assert compose_command() == ["docker", "compose"]


def test_compose_1_is_the_fallback(programs: Path) -> None:
    """A docker without the compose plug-in leaves docker-compose."""
    _fake(programs, "docker", "exit 1")
    _fake(programs, "docker-compose", "exit 0")

    assert compose_command() == ["docker-compose"]


def test_without_either_the_error_says_what_is_needed(programs: Path) -> None:
    """No Compose at all is an error that names both."""
    with pytest.raises(StackError, match="'docker compose' or 'docker-compose'"):
        compose_command()


def test_start_uses_only_words_that_both_versions_know(programs: Path) -> None:
    """``up -d`` without --wait; and a start that fails removes containers and volumes."""
    log = programs / "calls"
    _fake(programs, "docker", "exit 1")
    _fake(programs, "docker-compose", f'echo "$@" >> {log}; case "$*" in *up*) exit 3;; esac')
    stack = DockerStack(project="p", ports=StackSettings())

    with pytest.raises(StackError, match="ended with 3"):
        stack.start()

    prefix = f"-p p -f {ROOT / 'docker-compose.yml'}"
    assert log.read_text().splitlines() == [
        f"{prefix} up -d",
        f"{prefix} down -v --remove-orphans",
    ]


def test_a_container_that_ended_is_not_waited_for(programs: Path, closed_port: int) -> None:
    """The first look at what runs ends the start, with the name and the end of the logs."""
    log = programs / "calls"
    _fake(
        programs,
        "docker-compose",
        f"""echo "$@" >> {log}
        case "$*" in *" ps "*) echo vault; echo postgres;; *logs*) echo bad directive;; esac""",
    )
    ports = StackSettings(
        vault_port=closed_port, postgres_port=closed_port, valkey_port=closed_port
    )

    with pytest.raises(StackError, match=r"^valkey ended while starting:\nbad directive"):
        DockerStack(project="p", ports=ports).start()

    words = [line.split()[4] for line in log.read_text().splitlines()]
    assert words == ["up", "ps", "logs", "down"]


def test_a_port_that_is_taken_names_the_variables(programs: Path) -> None:
    """Compose's own words, and the way out."""
    _fake(programs, "docker-compose", "echo port is already allocated; exit 1")

    with pytest.raises(StackError, match=r"(?s)already allocated.*SDK_POSTGRES_PORT"):
        DockerStack(project="p", ports=StackSettings()).start()


def test_containers_that_cannot_be_removed_are_not_forgotten(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``down`` does not say "stopped" while they run; it can be tried again."""
    _fake(programs, "docker-compose", "echo no engine; exit 1")
    monkeypatch.chdir(programs)
    state = programs / ".stack" / "state.json"
    state.parent.mkdir()
    state.write_text('{"kind": "docker", "endpoints": ""}')

    with pytest.raises(StackError, match=r"(?s) down .*no engine"):
        _stack_keeper.down()
    assert state.exists()


def test_each_checkout_has_containers_of_its_own(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``make down`` in one checkout does not stop the containers of another."""
    log = programs / "calls"
    _fake(programs, "docker-compose", f'echo "$2" >> {log}; case "$*" in *up*) exit 3;; esac')
    for name in ("one", "one", "another"):
        (programs / name).mkdir(exist_ok=True)
        monkeypatch.chdir(programs / name)
        with pytest.raises(StackError, match="ended with 3"):
            _stack_keeper.up(StackSettings(kind="docker"))

    # Three calls for each: what an earlier one left is removed, then the start, then the end.
    projects = log.read_text().splitlines()[::3]
    assert projects[0] == projects[1] != projects[2]


def test_no_password_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Valkey reads its password from a command line, where two hyphens begin the next option."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: "--save")

    assert not DockerStack(project="p", ports=StackSettings()).password.startswith("-")


def test_the_passwords_of_a_run_reach_compose_and_no_repr() -> None:
    """Every variable that the file reads is set, to values of this run alone."""
    stack = DockerStack(project="p", ports=StackSettings(vault_port=1, postgres_port=2))
    text = (ROOT / "docker-compose.yml").read_text()

    variables = stack.compose_environment()

    assert [name for name in variables if f"${{{name}:-" not in text] == []
    assert (stack.token in repr(stack), stack.password in repr(stack)) == (False, False)
    assert "127.0.0.1:2/crm" in stack.superuser_url


def test_the_file_publishes_on_loopback_alone_and_pins_its_images() -> None:
    """No port is open to the network, and no image floats."""
    lines = [line.strip() for line in (ROOT / "docker-compose.yml").read_text().splitlines()]

    ports = [line for line in lines if line.startswith('- "') and line.count(":") >= 2]
    images = [line.split(":-")[1].rstrip("}") for line in lines if line.startswith("image:")]

    assert len(ports) == 3
    assert all(port.startswith('- "127.0.0.1:') for port in ports)
    assert images == ["openbao/openbao:2.7.2", "postgres:18", "valkey/valkey:9"]


def test_compose_accepts_the_file_where_it_is_installed() -> None:
    """``config`` of whatever Compose this machine has reads the file without complaint."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
            continue
        done = subprocess.run(
            [*command, "-f", str(ROOT / "docker-compose.yml"), "config", "-q"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
