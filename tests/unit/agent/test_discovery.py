"""What multicast brings is written by strangers."""

import json

from hypothesis import given
from hypothesis import strategies as st

from clusterai_agent.discovery import FoundServer, describe, of_cluster, parse_found

GOOD = {"cluster_id": "c-1", "addresses": ["192.0.2.1:7443"], "enrollment_port": 7444}


def test_a_proper_announcement_is_taken() -> None:
    properties = {b"cluster": b"c-1", b"enroll": b"7444", b"v": b"1"}
    printed = json.dumps([describe(properties, ["192.0.2.1", "2001:db8::1"], 7443)]).encode()
    assert parse_found(printed) == [FoundServer("c-1", ("192.0.2.1:7443", "[2001:db8::1]:7443"), 7444)]


def test_an_announcement_of_another_cluster_is_no_hint_for_an_enrolled_agent() -> None:
    found = parse_found(json.dumps([GOOD, GOOD | {"cluster_id": "c-2", "addresses": ["203.0.113.9:7443"]}]).encode())
    assert [str(address) for address in of_cluster(found, "c-1")] == ["192.0.2.1:7443"]


def test_hostile_announcements_are_dropped_and_bounded() -> None:
    hostile = [
        GOOD | {"cluster_id": "../../etc"},
        GOOD | {"cluster_id": "c" * 65},
        GOOD | {"cluster_id": 5},
        GOOD | {"addresses": ["unix:/run/x:1", "a b:1", "x" * 5000, 7, None, "192.0.2.1"]},
        GOOD | {"addresses": "192.0.2.1:7443"},
        GOOD | {"enrollment_port": True},
        GOOD | {"enrollment_port": 70000},
        ["list"],
        None,
    ]
    assert parse_found(json.dumps(hostile).encode()) == []
    assert len(parse_found(json.dumps([GOOD | {"cluster_id": f"c-{n}"} for n in range(500)]).encode())) == 16
    many = GOOD | {"addresses": [f"192.0.2.{n}:1" for n in range(200)]}
    assert len(parse_found(json.dumps([many]).encode())[0].addresses) == 8


def test_text_records_of_any_shape_make_no_error() -> None:
    odd = {b"cluster": None, b"enroll": b"12345678901", b"\xff\xfe": b"\x00" * 5000, "text": "text"}
    described = describe(odd, [], 7443)
    assert described == {"cluster_id": "", "addresses": [], "enrollment_port": 7444}


@given(st.binary(max_size=300))
def test_any_output_of_the_helper_is_survived(output: bytes) -> None:
    assert isinstance(parse_found(output), list)


LEAVES = st.none() | st.integers() | st.text() | st.booleans()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_of_the_helper_is_survived(value: object) -> None:
    assert isinstance(parse_found(json.dumps(value).encode()), list)
