"""The JSON that scripts rely on."""

import json
from typing import Any

import pytest
from google.protobuf.message import Message

from clusteractl.shape import shape
from clusterai.v1 import cluster_pb2, event_pb2, node_admin_pb2, operator_pb2, token_pb2, unit_pb2, worker_pb2
from clusterai.v1.node_admin_pb2 import Node
from clusterai.v1.types_pb2 import Sample
from support import samples

MESSAGES = [
    getattr(module, name)
    for module in (cluster_pb2, event_pb2, node_admin_pb2, operator_pb2, token_pb2, unit_pb2, worker_pb2)
    for name in module.DESCRIPTOR.message_types_by_name
]


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_has_a_shape_with_all_its_fields(kind: type[Message]) -> None:
    empty = shape(kind())
    assert list(empty) == [field.name for field in kind.DESCRIPTOR.fields]
    assert json.loads(json.dumps(empty)) == empty


def test_states_are_words_absent_messages_and_times_are_null() -> None:
    node = shape(samples.stranger())
    assert node["state"] == "pending"
    assert node["facts"] is None
    assert node["sample"] is None
    assert node["certificate_expires_unix_seconds"] is None
    assert node["workers"] == []
    assert node["last_heard_unix_seconds"] == samples.NOW - 40


def test_a_state_of_a_newer_server_is_unknown_not_an_error() -> None:
    newer = Node()
    newer.ParseFromString(b"\x10\x63")  # field 2, state: 99
    assert shape(newer)["state"] == "unknown"


def test_numbers_are_numbers_and_small_floats_have_no_noise() -> None:
    sample = shape(Sample(load_1min=0.3, memory_available_bytes=1 << 40, cpu_busy_ratio=[0.1]))
    assert (sample["load_1min"], sample["memory_available_bytes"], sample["cpu_busy_ratio"]) == (0.3, 1 << 40, [0.1])


def test_nested_messages_lists_and_maps_keep_their_names() -> None:
    status: Any = shape(samples.status())
    assert status["node_counts"] == {"incompatible": 1, "offline": 0, "ready": 3}
    assert status["pools"][0]["environment"]["versions"]["dask"] == "2026.8.0"


def test_further_keys_stand_after_the_messages_own() -> None:
    assert list(shape(event_pb2.WatchEventsResponse(), node_id="a")) == ["event", "node_id"]
