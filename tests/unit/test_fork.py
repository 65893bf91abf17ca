"""What a forked child runs before anything else."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from clients._shared import fork
from clients._shared.fork import on_fork
from tests.source_files import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable


class Member:
    """Something that notes its renewal."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes
        on_fork(self.renew)

    def renew(self) -> None:
        """Note it."""
        self.notes.append(self.name)


class Failing(Member):
    """Something whose renewal fails."""

    def renew(self) -> None:
        """Note it, and fail."""
        super().renew()
        raise RuntimeError("this one cannot be renewed")


def in_a_child(holds: Callable[[], bool]) -> bool:
    """Return what *holds* says in a forked child."""
    child = os.fork()
    if child == 0:
        os._exit(0 if holds() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_callbacks_run_in_the_child_in_the_order_of_registration() -> None:
    """What an object is made of registers before it, and is renewed before it."""
    notes: list[str] = []
    members = [Member(str(number), notes) for number in range(5)]

    assert in_a_child(lambda: notes == [one.name for one in members])
    assert notes == []


def test_one_that_fails_keeps_none_of_the_others_from_running() -> None:
    """Python reports the failure on standard error, and the child goes on."""
    notes: list[str] = []
    members = [Failing("first", notes), Member("second", notes)]

    assert in_a_child(lambda: notes == [one.name for one in members])


def test_a_registration_ends_with_its_object() -> None:
    """It keeps no object alive, and leaves nothing behind."""
    notes: list[str] = []
    gc.collect()
    before = len(fork._registered)
    members = [Member("gone", notes) for _ in range(3)]
    assert len(fork._registered) == before + 3

    del members
    gc.collect()

    assert len(fork._registered) == before
    assert in_a_child(lambda: notes == [])


def note() -> None:
    """A callback that is a function of a module."""
    RAN.append("function")


RAN: list[str] = []


def test_a_function_can_be_registered_too() -> None:
    """A module's own function stays registered for as long as the process lives."""
    on_fork(note)

    assert in_a_child(lambda: RAN == ["function"])
    assert RAN == []


def test_an_object_that_lives_to_the_end_of_the_process_ends_in_silence() -> None:
    """Nothing is printed when the interpreter takes its modules apart."""
    script = """
from clients._shared.fork import on_fork
class Client:
    def __init__(self): on_fork(self.renew)
    def renew(self): pass
client = Client()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
