"""What a Valkey URL may say, and what is refused without echoing it."""

from __future__ import annotations

import traceback

import pytest

from clients._valkey.url import Address, parse_valkey_url
from clients.errors import ConfigurationError, ValkeyConfigurationError, ValkeyError

SECRET = "s3cr3t-pa55"


@pytest.mark.parametrize("scheme", ["redis", "valkey", "REDIS", "Valkey"])
def test_plain_schemes_work_in_any_case(scheme: str) -> None:
    """Redis and valkey are the same scheme, however they are written."""
    target = parse_valkey_url(f"{scheme}://cache.example:6380/2")

    assert target.addresses == (Address("cache.example", 6380),)
    assert (target.db, target.tls, target.kind) == (2, False, "standalone")


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "VALKEYS"])
def test_tls_schemes_ask_for_tls(scheme: str) -> None:
    """The schemes with an s speak TLS, with the files that the options name."""
    target = parse_valkey_url(f"{scheme}://h/0?ssl_ca_certs=/ca.pem&ssl_check_hostname=False")

    assert target.tls
    assert dict(target.tls_options) == {"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": False}


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\n\n"])
def test_a_line_end_behind_the_url_is_not_a_part_of_it(end: str) -> None:
    """Secrets are often written with an editor, or by echo."""
    assert parse_valkey_url(f"redis://h:7/2{end}") == parse_valkey_url("redis://h:7/2")


def test_login_is_percent_decoded() -> None:
    """User and password are decoded, and every special character survives."""
    target = parse_valkey_url("redis://us%3Aer:p%2F%40%23%5B%20%25@h")

    assert (target.username, target.password) == ("us:er", "p/@#[ %")


def test_defaults_are_port_6379_and_database_0() -> None:
    """A bare host is enough."""
    target = parse_valkey_url("redis://h")

    assert (target.addresses, target.db, target.password) == ((Address("h", 6379),), 0, None)


def test_an_at_sign_in_the_password_belongs_to_the_password() -> None:
    """The last @ ends the login, as in urllib."""
    assert parse_valkey_url("redis://:p@ss@h").password == "p@ss"


def test_ipv6_addresses_stand_in_brackets() -> None:
    """An IPv6 host keeps its colons and is shown in brackets."""
    target = parse_valkey_url("redis://[::1]:7000/1")

    assert target.addresses == (Address("::1", 7000),)
    assert target.where == "[::1]:7000 db 1"


def test_unix_sockets_name_a_path() -> None:
    """unix:// takes the path from the URL and the database from an option."""
    target = parse_valkey_url("unix://user:pw@/run/valkey%20a.sock?db=3")

    assert (target.path, target.db, target.username) == ("/run/valkey a.sock", 3, "user")


def test_sentinel_urls_name_hosts_service_and_database() -> None:
    """+sentinel takes several hosts, and the service as the first part of the path."""
    target = parse_valkey_url("redis+sentinel://:pw@h1,h2:5,h3/main/2?sentinel_password=x")

    assert target.addresses == (Address("h1", 26379), Address("h2", 5), Address("h3", 26379))
    assert (target.kind, target.service, target.db) == ("sentinel", "main", 2)
    assert (target.password, target.sentinel_password) == ("pw", "x")


def test_cluster_urls_name_hosts() -> None:
    """+cluster takes several hosts and no database but 0."""
    target = parse_valkey_url("valkeys+cluster://h1,h2:7001")

    assert (target.kind, target.tls) == ("cluster", True)
    assert target.addresses == (Address("h1", 6379), Address("h2", 7001))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "it must be a str"),
        (5, "it must be a str"),
        (b"redis://h", "it must be a str"),
        ("", "no known scheme"),
        ("localhost:6379", "no known scheme"),
        (f"http://:{SECRET}@h", "no known scheme"),
        (f"redis+http://:{SECRET}@h", "no known scheme"),
        (f"redis://:{SECRET}@h/abc", "whole number"),
        (f"redis://:{SECRET}@h/0/1", "whole number"),
        (f"redis://:{SECRET}@h/-1", "whole number"),
        (f"redis://:{SECRET}@h/99999999999", "whole number"),
        (f"redis://:{SECRET}@h:0", "port"),
        (f"redis://:{SECRET}@h:65536", "port"),
        (f"redis://:{SECRET}@h:100000", "port"),
        (f"redis://:{SECRET}@h:six", "port"),
        (f"redis://:{SECRET}@h:", "port"),
        (f"redis://:{SECRET}@", "no usable host"),
        ("redis://", "no usable host"),
        (f"redis://:{SECRET}@[::1", "no usable host"),
        (f"redis://:{SECRET}@a,b", "several hosts"),
        (f"redis://:a#{SECRET}@h", "%23"),
        (f"redis://:a/{SECRET}@h", "%2F"),
        (f"redis://:6/{SECRET}@h", "%2F"),
        (f"redis://:a[{SECRET}@h", "%5B"),
        (f"redis://:a {SECRET}@h", "%20"),
        (f"redis://:a?{SECRET}@h", "%3F"),
        (f"redis://:a%{SECRET}@h", "%25"),
        (f"redis://:{SECRET}\n@h", "control character"),
        (f"redis://:{SECRET}%ff@h", "not UTF-8"),
        ("redis://:@h", "empty password"),
        (f"redis://{SECRET}@h", "no password"),
        (f"redis://:{SECRET}@h?bogus=1", "unknown option 'bogus'"),
        (f"redis://h?{SECRET}=1", "unknown option (not shown)"),
        (f"redis://h?password={SECRET}", "unknown option"),
        (f"redis://:{SECRET}@h?socket_timeout=1", "belongs to the constructor"),
        (f"redis://:{SECRET}@h?ssl_ca_certs=/x", "needs TLS"),
        (f"rediss://:{SECRET}@h?ssl_cert_reqs=maybe", "one of 'none', 'optional', 'required'"),
        (f"rediss://:{SECRET}@h?ssl_check_hostname=1", "one of 'true', 'false'"),
        (f"rediss://:{SECRET}@h?ssl_keyfile=", "no value"),
        (f"redis://:{SECRET}@h..x", "empty part"),
        (f"redis+cluster://:{SECRET}@h,{64 * 'h'}", "63 characters"),
        (f"redis://:{SECRET}@h?db=1&db=2", "given twice"),
        (f"redis://:{SECRET}@h/1?db=2", "twice"),
        (f"redis://:{SECRET}@h?sentinel_password=x", r"+sentinel"),
        (f"redis+sentinel://:{SECRET}@h", "names no service"),
        (f"redis+cluster://:{SECRET}@h/1", "database 0 only"),
        (f"unix://:{SECRET}@host/path", "absolute path"),
        ("unix://", "absolute path"),
        (f"unix+cluster://:{SECRET}@/path", "absolute path"),
    ],
)
def test_unclear_urls_are_refused_without_an_echo(url: object, reason: str) -> None:
    """Each unusable URL gets its own reason, and no part of it that could be a secret."""
    with pytest.raises(ValkeyConfigurationError) as caught:
        parse_valkey_url(url)

    assert reason in str(caught.value)
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, ValkeyError)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_target_shows_no_password() -> None:
    """Neither the repr of a target nor its name for messages holds a secret."""
    target = parse_valkey_url(f"rediss://u:{SECRET}@h?ssl_password={SECRET}")

    assert SECRET not in repr(target) + target.where
    assert target.secrets == (SECRET, SECRET)
