"""Addresses of names, IPv4 and IPv6: written one way, and read as they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mas.addresses import bare_host, is_loopback, join_address, split_address

hosts = st.sampled_from(["localhost", "node-1.example", "10.0.0.1"]) | st.ip_addresses().map(str)


@given(hosts, st.integers(1, 65535))
def test_users_13_what_is_written_is_read(host: str, port: int) -> None:
    assert split_address(join_address(host, port)) == (host, port)
    assert split_address(join_address(f"[{host}]", port)) == (host, port)


def test_users_13_ipv6_stands_in_brackets() -> None:
    assert join_address("::1", 9008) == join_address("[::1]", 9008) == "[::1]:9008"
    assert bare_host("[::1]") == bare_host("::1") == "::1"


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":1",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:x",
        "::1:9008",
        "::1",
        "[::1]",
        "[::1:9",
        "[host]:9",
        "[]:9",
        "[::g]:9",
        "host:" + "9" * 5000,
        "host:" + chr(0x661),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="port"):
        split_address(address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "example.com", "127.example.com"]
)
def test_elsewhere(host: str) -> None:
    assert not is_loopback(host)
