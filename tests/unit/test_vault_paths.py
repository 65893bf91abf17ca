"""The guard that every path passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients._vault.paths import (
    check_mount_point,
    database_path,
    folder_path,
    join_path,
    secret_path,
)
from clients.errors import VaultConfigurationError, VaultError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    "path",
    [
        "crm/database",
        "secret/data/crm/database",
        "/secret/data/crm/database",
        "/crm/database",
        "crm/database/",
    ],
)
def test_every_spelling_of_a_path_leads_to_one_place(path: str) -> None:
    """The HTTP API's spelling and slashes around it make no difference."""
    place = secret_path("secret", path)

    assert (place.mount, place.path) == ("secret", "crm/database")


def test_a_nested_mount_is_stripped_as_a_whole() -> None:
    """A mount of several segments is recognised in the HTTP API's spelling."""
    assert secret_path("team/kv", "team/kv/data/a").path == "a"
    assert secret_path("team/kv", "kv/data/a").path == "kv/data/a"


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//", " ", "..", ".", "a/../b", "../../sys/mounts", "a/./b", "a//b"),
        *("a\nb", "a\x00b", "a\u202eb", "a\x7fb", "x" * 600, "secret/data/../../sys/mounts"),
    ],
)
def test_an_unfit_path_is_refused(path: str) -> None:
    """Empty paths, dot segments, empty segments and control characters never reach a URL."""
    with pytest.raises(VaultConfigurationError, match="path") as caught:
        secret_path("secret", path)
    assert isinstance(caught.value, VaultError)
    with pytest.raises(VaultConfigurationError):
        check_mount_point(path)


@pytest.mark.parametrize("path", [None, 5, b"a", ["a"]])
def test_a_path_that_is_no_text_is_refused(path: object) -> None:
    """A wrong type is named, and does not end in an AttributeError."""
    with pytest.raises(VaultConfigurationError, match="must be text"):
        secret_path("secret", path)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["..", ".", "a", "%2e%2e", "", "b c"]), min_size=1, max_size=6))
def test_no_path_with_a_dot_segment_passes(segments: list[str]) -> None:
    """Whatever surrounds it, a dot segment is refused, and what passes has none."""
    try:
        place = secret_path("secret", "/".join(segments))
    except VaultConfigurationError:
        return

    assert {".", "..", ""}.isdisjoint(place.path.split("/"))
    assert {".", ".."}.isdisjoint(segments)


def test_the_root_of_a_mount_can_be_listed() -> None:
    """One slash is the mount's own folder, for lists alone."""
    assert folder_path("secret", "/").path == ""
    assert folder_path("secret", "secret/metadata/crm").path == "crm"
    assert folder_path("secret", "crm/").path == "crm"
    assert folder_path("secret", "secret/data/secret/metadata/x").path == "secret/metadata/x"


@pytest.mark.parametrize("name", ["", "/", "..", "../database", "a\nb"])
def test_a_name_below_a_prefix_stays_below_it(name: str) -> None:
    """A caller-supplied name cannot leave the prefix, nor stand for the prefix itself."""
    with pytest.raises(VaultConfigurationError):
        join_path("prefix/keys", name)


def test_a_message_shows_what_would_have_done() -> None:
    """Nobody writes a secret's path where a mount, a name or a role belongs."""
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: secret_path("secret", ""), "secret path '' .*such as 'crm/database'"),
        (lambda: folder_path("secret", ""), "folder '' .*such as 'crm'"),
        (lambda: join_path("keys", ""), "name '' .*such as 'openweather'"),
        (lambda: join_path("", "x"), "prefix '' .*such as 'crm/api-keys'"),
        (lambda: check_mount_point(""), "mount point '' .*such as 'secret'"),
        (lambda: database_path(""), "database role '' .*such as 'crm-app'"),
    ]
    for call, words in calls:
        with pytest.raises(VaultConfigurationError, match=words):
            call()


def test_a_long_path_is_shortened_in_the_message() -> None:
    """A message stays readable, whatever was passed."""
    with pytest.raises(VaultConfigurationError) as caught:
        secret_path("secret", "x" * 5000)

    assert len(str(caught.value)) < 250
