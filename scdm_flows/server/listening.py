"""The socket that the server listens on; loads nothing heavy."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import closing

from scdm_flows.errors import ConfigError, StoreError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> closing[socket.socket]:
    """A listening socket, closed at the end.

    Raises
    ------
    StoreError
        If the port is in use.
    ConfigError
        If the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol named, or asyncio would not set TCP_NODELAY, and each answer on a kept connection wait 40 ms
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise StoreError(f"port {port} of {host} is in use; choose another with --port, or --port 0") from None
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} may not be used by this user; choose one above 1023 with --port") from None
        raise ConfigError(
            f"--host {host}: {error.strerror or error}; use 127.0.0.1, or an address of this machine"
        ) from None
    return closing(found)
