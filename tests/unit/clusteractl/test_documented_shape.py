"""docs/cli.md names exactly the keys that commands print."""

import re
from pathlib import Path

import pytest
from google.protobuf.message import Message

from clusteractl.shape import shape
from clusteractl.views.cluster import Check
from clusterai.v1.cluster_pb2 import GetStatusResponse, ModelsStatus, PoolStatus
from clusterai.v1.event_pb2 import Event
from clusterai.v1.key_pb2 import CreateKeyResponse, Key, ListKeysResponse
from clusterai.v1.model_pb2 import (
    Candidate,
    CatalogEntry,
    Drift,
    DriftKind,
    ExplainRouteResponse,
    Fit,
    ListCatalogResponse,
    ListModelsResponse,
    Model,
    ModelCopy,
    NodePull,
    PlaceModelResponse,
    PullModelResponse,
    Recommendation,
    RecommendModelsResponse,
    RemoveModelResponse,
    RouteStep,
    SyncModelsResponse,
)
from clusterai.v1.node_admin_pb2 import DrainNodeResponse, ListNodesResponse, Node, NodeState
from clusterai.v1.operator_pb2 import ListOperatorsResponse
from clusterai.v1.policy_pb2 import Policy, PolicySource, PolicyValue, ShowPolicyResponse
from clusterai.v1.token_pb2 import CreateTokenResponse, ListTokensResponse, Token
from clusterai.v1.types_pb2 import (
    EnvironmentState,
    LogLine,
    MachineClass,
    OllamaSettings,
    PolicyState,
    PolicyStatus,
    PullState,
    PullStatus,
    WorkerState,
    WorkerStatus,
)
from clusterai.v1.unit_pb2 import ListUnitsResponse, Unit
from clusterai.v1.worker_pb2 import ListWorkersResponse

PAGE = (Path(__file__).parents[3] / "docs/cli.md").read_text()
MESSAGES: dict[str, Message] = {
    "`clusteractl status`": GetStatusResponse(),
    "`clusteractl node list`": ListNodesResponse(),
    "`clusteractl worker list`": ListWorkersResponse(),
    "`clusteractl token list`": ListTokensResponse(),
    "`clusteractl unit list`": ListUnitsResponse(),
    "`clusteractl logs`": LogLine(),
    "`clusteractl events`": Event(),
    "`clusteractl model list`": ListModelsResponse(),
    "`clusteractl model pull`": PullModelResponse(),
    "`clusteractl model sync`": SyncModelsResponse(),
    "`clusteractl model catalog`": ListCatalogResponse(),
    "`clusteractl model recommend`": RecommendModelsResponse(),
    "`clusteractl why`": ExplainRouteResponse(),
    "`clusteractl key create`": CreateKeyResponse(),
    "`clusteractl key list`": ListKeysResponse(),
    "a model": Model(),
    "a copy": ModelCopy(),
    "a pull": PullStatus(),
    "a node's pull": NodePull(),
    "a candidate": Candidate(),
    "a drift": Drift(),
    "a catalogue entry": CatalogEntry(),
    "a recommendation": Recommendation(),
    "a peer": RouteStep(),
    "a key": Key(),
    "`clusteractl policy show`": ShowPolicyResponse(),
    "a policy": Policy(),
    "a setting of a policy": PolicyValue(),
    "the status of a policy": PolicyStatus(),
    "the models of the status": ModelsStatus(),
    "the settings of Ollama": OllamaSettings(),
    "a node": Node(),
    "a worker": WorkerStatus(),
    "a pool": PoolStatus(),
    "a token": Token(),
    "a unit": Unit(),
}


def documented(row: str) -> list[str]:
    """The keys in the row of a table: words in backquotes, without what stands in brackets."""
    match = re.search(rf"^\| {re.escape(row)} \| (.*) \|$", PAGE, re.MULTILINE)
    assert match, row
    return re.findall(r"`([a-z0-9_]+)`", re.sub(r"\([^)]*\)", "", match[1]))


@pytest.mark.parametrize("row", MESSAGES)
def test_the_documented_keys_are_the_printed_ones(row: str) -> None:
    assert sorted(documented(row)) == sorted(shape(MESSAGES[row]))


def test_the_keys_of_objects_with_more_than_a_message_are_documented() -> None:
    assert sorted(documented("`clusteractl node drain`")) == sorted(shape(DrainNodeResponse(), node_id=""))
    assert sorted(documented("`clusteractl token create`")) == sorted(shape(CreateTokenResponse(), commands=[]))
    more = documented("`clusteractl model show`")
    assert sorted(more) == ["drifts", "settings"]
    assert sorted(documented("`clusteractl model place`")) == sorted(shape(PlaceModelResponse(), model=""))
    assert sorted(documented("`clusteractl model rm`")) == sorted(shape(RemoveModelResponse(), model=""))
    operators = documented("`clusteractl operator list`")
    assert operators[0] in shape(ListOperatorsResponse())
    assert sorted(documented("a check")) == sorted(Check("", "", "", "").__dict__)


@pytest.mark.parametrize(
    "enum",
    [NodeState, WorkerState, EnvironmentState, Fit, PullState, DriftKind, MachineClass, PolicyState, PolicySource],
)
def test_every_state_is_documented(enum: type) -> None:
    descriptor = enum.DESCRIPTOR  # type: ignore[attr-defined]
    prefix = descriptor.values[0].name.removesuffix("UNSPECIFIED")
    names = [value.name.removeprefix(prefix).lower().replace("_", "-") for value in descriptor.values[1:]]
    assert [name for name in names if f"`{name}`" not in PAGE] == []
