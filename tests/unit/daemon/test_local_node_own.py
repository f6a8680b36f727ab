"""Which node is the server's own: by its token, or by its machine and its address together."""

import pytest

from clusterai.ids import NodeId
from clusterai.v1.types_pb2 import NodeFacts
from clusteraid.local_node import is_own
from clusteraid.nodes import Node
from clusteraid.registry import NodeEntry


@pytest.mark.parametrize(
    ("admitted_by", "machine_id", "address", "own"),
    [
        ("local node", "", "192.0.2.7", True),
        ("ann", "me", "127.0.0.1", True),
        ("ann", "me", "", True),  # not heard since the daemon started
        ("ann", "me", "192.0.2.7", False),  # a machine that was copied from this one
        ("ann", "other", "127.0.0.1", False),  # a remote one that comes in by a tunnel
        ("ann", "", "127.0.0.1", False),
    ],
)
def test_who_is_the_servers_own(admitted_by: str, machine_id: str, address: str, own: bool) -> None:
    node = Node(NodeEntry(NodeId("n")), 0.0, NodeFacts(machine_id=machine_id), 0.0, 0.0, 0.0, address=address,
                admitted_by=admitted_by)
    assert is_own(node, "me") is own
    assert is_own(node, "") is (admitted_by == "local node")
