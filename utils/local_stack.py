"""The local development stack: real OpenBao, PostgreSQL 18 and Valkey 9 on loopback.

As a command::

    python -m utils.local_stack run -- COMMAND ...   start, run COMMAND with the exports, stop
    python -m utils.local_stack up | down | env      leave one running, stop it, print its exports

``STACK`` says where the servers come from: ``embedded`` (default: wheels, no Docker), ``docker``,
or ``external`` (they are there already, and the ``VAULT_*`` variables lead to them).

What a new stack holds::

    Exports, which ``run`` sets and ``env`` prints
      VAULT_ADDR                Vault's URL
      VAULT_TOKEN               a token with the policy crm-app
      VAULT_ROLE_ID             the AppRole crm-app, with the same policy
      VAULT_SECRET_ID           its secret id
      STACK_SUPERUSER_URL       PostgreSQL as the superuser, who owns the tables
      STACK_VAULT_ROOT_TOKEN    Vault's root token
    Secrets in Vault, in the mount secret (KV version 2)
      crm/database              url (as crm_user), admin_url (as crm_admin)
      crm/valkey                url
      crm/email                 api_key, from_address
      bike-data-flow/production/database                username, password, host, port, database
      bike-data-flow/production/api-keys/openweather    api_key
      bike-data-flow/production/api-keys/citybikes      api_key
    Policies in Vault
      crm-app                   reads and lists every secret of the mount secret
    Roles in PostgreSQL, in the database crm
      crm_user                  for applications: row-level security binds it
      crm_admin                 for admin_connection(): BYPASSRLS, and a member of crm_user
    Tables in PostgreSQL, without rows
      users                     a user sees and changes their own row
      contacts                  each user's own, by user_id; so are the next two
      tickets
      addresses
    Policies in PostgreSQL
      user_isolation            on each table: compares with app.current_user_id, a UUID
    Users in Valkey, without keys
      default                   with a password, and every right

Row-level security does not bind the superuser, so no client accepts ``STACK_SUPERUSER_URL``. Apply
migrations with it (``psql "$STACK_SUPERUSER_URL" -f my_schema.sql``), and grant ``crm_user`` what
your application needs. For an identity of your own drop the tables above first: ``check`` and
``rls`` would find that nobody sets what their policies read. The stack belongs to the folder that
it was started from. Store secrets of your own with the root token:
``VAULT_TOKEN=$STACK_VAULT_ROOT_TOKEN bao kv put secret/my/app key=value``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from clients.errors import ConfigurationError
from utils._stack import keeper
from utils._stack.docker import DockerStack
from utils._stack.embedded import EmbeddedStack
from utils._stack.endpoints import StackEndpoints
from utils._stack.process import StackError, free_port
from utils._stack.settings import StackSettings, child_environment, forget_ambient_servers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["EmbeddedStack", "StackEndpoints", "StackError", "main", "open_stack"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# By convention of the shell, a process that signal N ended has the exit code 128 + N.
_SIGNAL_EXIT_BASE = 128
_COMMAND_GRACE = 10.0


@contextmanager
def open_stack(settings: StackSettings) -> Iterator[StackEndpoints | None]:
    """Give a stack for the length of a ``with`` block.

    Args:
        settings: Which kind. Docker gets free ports, so that it stands beside one left running.

    Yields:
        Its endpoints; None for an external one, to which the environment leads.

    Raises:
        StackError: One of its servers did not start; none is left running.
    """
    if settings.kind == "external":
        yield None
    elif settings.kind == "embedded":
        with EmbeddedStack() as embedded:
            yield embedded.start()
    else:
        ports = replace(
            settings, vault_port=free_port(), postgres_port=free_port(), valkey_port=free_port()
        )
        docker = DockerStack(project=f"failfast-{os.getpid()}", ports=ports)
        started = False
        try:
            endpoints = docker.start()
            started = True
            yield endpoints
        finally:
            # After a failed start, an error of the clean-up must not replace the start's.
            docker.close(check=started)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words behind the program's name; the process's own when None.

    Returns:
        The exit code; that of the command itself for ``run``.
    """
    parser = argparse.ArgumentParser(prog="python -m utils.local_stack", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="action", required=True)
    run = commands.add_parser("run", help="start a stack, run a command in it, stop the stack")
    run.add_argument("command", nargs=argparse.REMAINDER)
    for name, text in (
        ("up", "leave a stack running"),
        ("down", "stop it"),
        ("env", "print its exports"),
        ("serve", "keep the embedded servers; `up` starts this in the background"),
    ):
        commands.add_parser(name, help=text)
    options = parser.parse_args(argv)
    try:
        settings = StackSettings.from_env()
        if settings.kind != "external":
            forget_ambient_servers()
        return _act(options.action, getattr(options, "command", []), settings)
    except (StackError, ConfigurationError) as error:
        print(f"local stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _SIGNAL_EXIT_BASE + signal.SIGINT


def _act(action: str, command: list[str], settings: StackSettings) -> int:
    if action == "run":
        return _run(command, settings)
    if action == "serve":
        return keeper.serve(EmbeddedStack())
    if action == "up":
        print(keeper.up(settings))
    elif action == "down":
        print(keeper.down())
    else:
        print(keeper.endpoints().exports())
    return 0


def _run(command: list[str], settings: StackSettings) -> int:
    words = command[1:] if command[:1] == ["--"] else command
    if not words:
        raise StackError("run: name the command to run, as in: run -- python -m clients check")
    for number in _ENDING:
        # The handler raises, so that the servers are stopped on the way out. A signal that the
        # caller ignores, as under nohup, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    with open_stack(settings) as endpoints:
        try:
            return _run_to_its_end(words, endpoints.environment() if endpoints else {})
        finally:
            _ignore_signals()


def _run_to_its_end(words: list[str], exports: dict[str, str]) -> int:
    try:
        command = subprocess.Popen(words, env=child_environment(exports))
    except OSError as error:
        raise StackError(f"cannot run {words[0]!r}: {error.strerror}") from error
    try:
        code = command.wait()
    except SystemExit as leaving:
        # Ctrl-C reached the command already; a second signal could interrupt its clean-up.
        if leaving.code != _SIGNAL_EXIT_BASE + signal.SIGINT:
            command.terminate()
        try:
            command.wait(_COMMAND_GRACE)
        except subprocess.TimeoutExpired:
            command.kill()
            command.wait()
        raise
    return code if code >= 0 else _SIGNAL_EXIT_BASE - code


def _leave(number: int, _frame: object) -> NoReturn:
    _ignore_signals()
    sys.exit(_SIGNAL_EXIT_BASE + number)


def _ignore_signals() -> None:
    # A second Ctrl-C must not interrupt the stopping of the servers.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
