"""The servers that a URL or a secret names: one check of hosts and ports for all three clients.

A problem is returned as text, and not raised: it shows no part of what was given, which behind an
unescaped character may be a part of a password, and no frame is left that holds it.
Source: https://www.rfc-editor.org/rfc/rfc3986, sections 2.1 and 3.2.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import unquote

__all__ = [
    "LAST_PORT",
    "Server",
    "host_problem",
    "port_of",
    "server_in",
    "servers_in",
    "stray_character",
]

LAST_PORT = 65535
#: Letters of any script: names that are not ASCII are looked up in their IDNA form.
_NAME = re.compile(r"[\w.-]+")
_ZONE = re.compile(r"[\w.-]+", re.ASCII)
_NO_HOST = (
    "names no usable host: write host:port, and an IPv6 address in brackets, as in [::1]:port"
)
_NO_PORT = f"names a port that is no number from 1 to {LAST_PORT}"
_BAD_PART = "names a host with an empty part or one of more than 63 characters"


class Server(NamedTuple):
    """One server.

    Args:
        host: Its name or address, without brackets.
        port: Its port; None where none is named.
    """

    host: str
    port: int | None


def servers_in(text: str) -> tuple[Server, ...] | str:
    """Return the servers of a list with commas between them; the problem where there is one.

    Args:
        text: What stands between ``//``, or the login, and the path of a URL.
    """
    found = []
    for one in text.split(","):
        server = server_in(one)
        if isinstance(server, str):
            return server
        found.append(server)
    return tuple(found)


def server_in(text: str) -> Server | str:
    """Return the server that ``host``, ``host:port`` or ``[address]:port`` names, or the problem.

    Args:
        text: One such text.
    """
    if text.startswith("["):
        inside, bracket, end = text[1:].partition("]")
        host = unquote(inside)  # a zone's % is written as %25
        if not bracket or ":" not in host or (end and not end.startswith(":")):
            return _NO_HOST
    else:
        host, colon, port_text = text.partition(":")
        end = colon + port_text
    if problem := host_problem(host):
        return problem
    if not end:
        return Server(host, None)
    port = port_of(end[1:])
    return _NO_PORT if port is None else Server(host, port)


def host_problem(host: str) -> str | None:
    """Return what is wrong with a host's name or address; None where nothing is.

    Args:
        host: The name, or an address without brackets.
    """
    if ":" in host:
        return None if _is_ipv6(host) else _NO_HOST
    if not _NAME.fullmatch(host):
        return _NO_HOST
    try:
        # The resolver's own error is a UnicodeError that would come out of a connect.
        host.encode("idna")
    except UnicodeError:
        return _BAD_PART
    return None


def port_of(value: object) -> int | None:
    """Return the port that a text or a number says; None where it is none."""
    if isinstance(value, str):
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(LAST_PORT))
        value = int(value) if is_number else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value <= LAST_PORT else None


def stray_character(url: str) -> str | None:
    """Return what no URL may hold and this one does; None where all is well."""
    if " " in url:
        return "holds a blank"
    return None if url.isprintable() else "holds a control character or an invisible one"


def _is_ipv6(host: str) -> bool:
    address, percent, zone = host.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True
