"""Addresses as people write them: "host:port", where the host of IPv6 stands in brackets, as in "[::1]:9008"."""

import ipaddress


def join_address(host: str, port: int) -> str:
    """The address of a port of this host, which is a name or an IP address, in brackets or not."""
    host = bare_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Host, without brackets, and port.

    Raises:
        ValueError: it isn't an address; the error says which form is expected.
    """
    before, _, port = address.rpartition(":")
    host = bare_host(before)
    bracketed = host != before
    if bracketed != (":" in host) or (bracketed and not _is_ipv6(host)):
        raise ValueError('"[host]:port" where the host is an IPv6 address, else "host:port"')
    if (
        not host
        or " " in host
        or not (port.isascii() and port.isdecimal())
        or not 1 <= int(port[:6]) <= 65535
    ):
        raise ValueError('"host:port"')
    return host, int(port)


def bare_host(host: str) -> str:
    """A host without the brackets that an IPv6 address may have."""
    return host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach this host."""
    host = bare_host(host)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
