"""Where the server is reached, when its addresses change under it."""

from clusteraid.addresses import NOWHERE, Reach


def test_new_addresses_are_taken_over_and_none_at_all_changes_nothing() -> None:
    found: list[tuple[str, ...]] = [("192.0.2.10",)]
    reach = Reach(lambda: found[-1])
    reach.opened(7443, 7444)
    assert not reach.look()
    found.append(("192.0.2.20", "2001:db8::20"))
    assert reach.look()
    assert reach.cluster() == ("192.0.2.20:7443", "[2001:db8::20]:7443")
    assert reach.enrollment() == ("192.0.2.20:7444", "[2001:db8::20]:7444")
    assert not reach.look()
    found.append(NOWHERE)
    assert not reach.look()
    assert reach.hosts == ("192.0.2.20", "2001:db8::20")
