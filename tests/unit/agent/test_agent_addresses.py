"""Addresses from people and from the network."""

import pytest

from clusterai_agent.addresses import Address, is_loopback, local_address_towards, parse_all


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tower", "tower"),
        ("tower.lan:7443", "tower.lan:7443"),
        ("192.0.2.7:1", "192.0.2.7:1"),
        ("[2001:db8::1]:7443", "[2001:db8::1]:7443"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("fe80::1%eth0", "[fe80::1%eth0]"),
    ],
)
def test_good_addresses_are_read(text: str, shown: str) -> None:
    assert str(Address.parse(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "tower:port", "x:99999", "x:1:2", "../x", "a/b", "-x", "x\0", "[::1", "unix:/x", "x" * 9999],
)
def test_anything_else_is_no_address(text: str) -> None:
    assert Address.parse(text) is None


def test_a_list_keeps_its_order_and_drops_doubles_and_rubbish() -> None:
    found = parse_all(["b:1", "a", "b:1", "!", "a:7443"], 7443)
    assert [str(address) for address in found] == ["b:1", "a:7443"]


def test_loopback_is_known_by_each_of_its_names() -> None:
    assert [host for host in ("localhost", "127.1.2.3", "::1", "192.0.2.1", "tower") if is_loopback(host)] == [
        "localhost", "127.1.2.3", "::1",
    ]


def test_the_address_towards_a_host_is_that_of_the_route() -> None:
    assert local_address_towards("127.0.0.1") == "127.0.0.1"
    assert local_address_towards("no-such-host.invalid") == ""
