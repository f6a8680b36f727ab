"""From nodes and models to the gateway's table."""

import math
from typing import Any

import pytest

from clusterai.ids import NodeId
from clusterai.v1.model_pb2 import FIT_MAIN_MEMORY, FIT_UNSPECIFIED
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    SERVICE_STATE_FAILED,
    GateStatus,
    LoadedModel,
    NodeFacts,
    OllamaSettings,
    OllamaStatus,
    PullState,
    PullStatus,
)
from clusteraid.gateway.routes import Peer, RouteSettings, Table, peer_of, routes
from clusteraid.models.ports import ClusterModel
from clusteraid.nodes import Node
from clusteraid.registry import Desired, Link, NodeEntry, Rest
from support.models import copy, digest, info, model, ready_ollama

NAME = "llama3.2:3b"
ADDRESS = "192.0.2.11"
SETTINGS = RouteSettings()


def node(name: str = "tower", *, ollama: OllamaStatus | None = None, heard: bool = True, **entry: Any) -> Node:
    values = {"link": Link.UP, "epoch": 1, **entry}
    return Node(
        NodeEntry(NodeId(name), **values), 0.0, NodeFacts(), 0.0, since=0.0, heard_at=0.0, heard_once=heard,
        status=NodeStatus(ollama=ollama or ready_ollama()), address=ADDRESS if name == "tower" else _address(name),
    )


def _address(name: str) -> str:
    """An address of its own for each name of two letters at most."""
    return f"198.51.100.{sum(name.encode()) % 250}"


def peer(node_: Node, *, own: bool = False) -> Peer:
    return peer_of(node_, own=own, gate_port=11443, parallel=4)


def table(models: list[ClusterModel], peers: list[Peer], former: Table | None = None) -> Table:
    return routes(models, peers, SETTINGS, former or {})


def test_a_ready_node_is_reached_where_its_session_came_from() -> None:
    made = table([model(NAME, copy("tower", loaded=True))], [peer(node())])
    assert made["nodes"] == {
        "tower": {"host": "192.0.2.11", "port": 11443, "slots": 2}
    }
    assert made["models"][NAME] == {
        "digest": digest(NAME).hex(), "nodes": {"tower": {"loaded": True, "fit": 1}}, "reason": "",
        "retry_after_seconds": 0,
    }


def test_the_server_s_own_node_is_reached_without_leaving_the_machine() -> None:
    assert table([], [peer(node(), own=True)])["nodes"]["tower"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "host"),
    [("2001:db8::1", "2001:db8::1"), ("::ffff:192.0.2.9", "192.0.2.9"), ("fe80::1%eth0", None), ("unix:", None)],
)
def test_one_odd_address_never_makes_the_whole_table_unreadable(address: str, host: str | None) -> None:
    odd = node("odd")
    odd.address = address
    nodes = table([], [peer(odd), peer(node())])["nodes"]
    assert nodes.get("odd", {}).get("host") == host
    assert "tower" in nodes


def test_of_two_nodes_at_one_address_and_port_the_one_that_was_there_stays() -> None:
    nodes = [node("ann"), node("bob"), node("ann", ollama=ready_ollama(11444))]
    for one in nodes:
        one.address = ADDRESS
    ann, bob, elsewhere = map(peer, nodes)
    assert list(table([], [ann, bob])["nodes"]) == ["ann"]
    former = table([], [bob])
    made = table([model(NAME, copy("ann"))], [ann, bob], former)
    assert list(made["nodes"]) == ["bob"]
    assert made["models"][NAME]["reason"] == "ann: its gate is at the address and port of bob's"
    assert list(table([], [elsewhere, bob], former)["nodes"]) == ["ann", "bob"]


def test_what_a_node_does_not_tell_is_as_configured_and_what_it_tells_is_bounded() -> None:
    silent = peer(node(ollama=OllamaStatus()))
    assert (silent.port, silent.slots) == (11443, 4)
    lying = peer(node(ollama=ready_ollama(1 << 20, applied=OllamaSettings(parallel_count=1 << 30))))
    assert (lying.port, lying.slots) == (11443, 64)


@pytest.mark.parametrize(
    ("entry", "ollama", "said"),
    [
        ({"link": Link.BROKEN}, ready_ollama(), "suspect"),
        ({"link": Link.SILENT}, ready_ollama(), "offline"),
        ({"desired": Desired.DRAINING}, ready_ollama(), "draining"),
        ({"desired": Desired.DRAINED}, ready_ollama(), "drained"),
        ({"rest": Rest.DRAINING, "rest_reason": "on battery"}, ready_ollama(), "it is resting: on battery"),
        ({}, OllamaStatus(), "Ollama is not ready"),
        ({}, ready_ollama(state=SERVICE_STATE_FAILED), "Ollama is not ready"),
        ({}, ready_ollama(gate=GateStatus(state=SERVICE_STATE_FAILED)), "gate is not ready"),
    ],
)
def test_a_node_that_may_not_be_used_is_left_out_and_the_client_hears_why(
    entry: dict[str, Any], ollama: OllamaStatus, said: str
) -> None:
    made = table([model(NAME, copy("tower"))], [peer(node(ollama=ollama, **entry))])
    assert made["nodes"] == {}
    assert made["models"][NAME]["nodes"] == {}
    assert made["models"][NAME]["reason"].startswith("tower: it")
    assert said in made["models"][NAME]["reason"]
    assert made["models"][NAME]["retry_after_seconds"] == 10


def test_only_usable_copies_with_the_cluster_s_digest_get_requests() -> None:
    copies = [copy("a"), copy("b", present=False), copy("c", usable=False, reason="it does not fit"), copy("nobody")]
    made = table([model(NAME, *copies)], [peer(node(name)) for name in "abc"])
    assert list(made["models"][NAME]["nodes"]) == ["a"]


@pytest.mark.parametrize(("fit", "said"), [(FIT_MAIN_MEMORY, 2), (FIT_UNSPECIFIED, 3), (99, 3)])
def test_a_fit_that_is_not_known_counts_as_tight(fit: int, said: int) -> None:
    made = table([model(NAME, copy("tower", fit=fit))], [peer(node())])
    assert made["models"][NAME]["nodes"]["tower"]["fit"] == said


def test_a_model_that_is_being_fetched_says_so_and_the_sentence_does_not_change_with_every_byte() -> None:
    def made(state: PullState, done: int) -> Table:
        pull = PullStatus(model=NAME, state=state, completed_bytes=done, total_bytes=100)
        fetching = copy("tower", present=False, usable=False, reason="it is being fetched")
        entry: Table = table([model(NAME, fetching)], [peer(node(ollama=ready_ollama(pulls=[pull])))])["models"][NAME]
        return entry

    assert made(PULL_STATE_PULLING, 1) == made(PULL_STATE_PULLING, 99)
    assert "tower: it is being fetched" in made(PULL_STATE_PULLING, 1)["reason"]
    assert made(PULL_STATE_PULLING, 1)["retry_after_seconds"] == 30
    assert made(PULL_STATE_FAILED, 1)["retry_after_seconds"] == 60


def test_a_reason_names_three_nodes_at_most_those_that_have_the_model_first() -> None:
    away = [copy(name, present=name == "e", usable=False, reason=f"{name} is offline") for name in "abcde"]
    reason = table([model(NAME, *away)], [])["models"][NAME]["reason"]
    assert reason == "e is offline; a is offline; b is offline; and 2 more"
    assert "no node has it yet" in table([model(NAME)], [])["models"][NAME]["reason"]


def test_the_listing_is_ollama_s() -> None:
    loaded = LoadedModel(
        model=NAME, digest=digest(NAME), size_bytes=30, vram_bytes=20, context_length=8192,
        expires_unix_seconds=1_700_000_001,
    )
    listed = table([model(NAME, copy("tower"))], [peer(node(ollama=ready_ollama(loaded=[loaded])))])["listing"]
    details = {
        "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B",
        "quantization_level": "Q4_K_M",
    }
    assert listed["version"] == "0.31.1"
    assert listed["tags"] == [
        {
            "name": NAME, "model": NAME, "modified_at": "1970-01-01T00:00:00Z", "size": 2 << 30,
            "digest": digest(NAME).hex(), "details": details, "capabilities": ["completion"],
        }
    ]
    assert listed["ps"] == [
        {
            "name": NAME, "model": NAME, "size": 30, "digest": digest(NAME).hex(), "details": details,
            "expires_at": "2023-11-14T22:13:30Z", "size_vram": 20, "context_length": 8192,
        }
    ]


def test_a_model_that_several_nodes_have_loaded_is_listed_once_with_its_longest_stay() -> None:
    def with_loaded(name: str, expires: float, vram: int, of: str = NAME) -> Peer:
        loaded = LoadedModel(model=NAME, digest=digest(of), vram_bytes=vram, expires_unix_seconds=expires)
        return peer(node(name, ollama=ready_ollama(loaded=[loaded])))

    peers = [with_loaded("a", 1e9, 1), with_loaded("b", 0, 2), with_loaded("c", 2e9, 3), with_loaded("d", 0, 4, of="x")]
    (listed,) = table([model(NAME, copy("a"))], peers)["listing"]["ps"]
    assert (listed["size_vram"], listed["expires_at"]) == (2, "9999-12-31T23:59:59Z")


@pytest.mark.parametrize("expires", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_times_that_make_no_sense_break_nothing(expires: float) -> None:
    loaded = LoadedModel(model=NAME, digest=digest(NAME), expires_unix_seconds=expires)
    made = table([model(NAME, copy("tower"))], [peer(node(ollama=ready_ollama(loaded=[loaded])))])
    assert made["listing"]["ps"][0]["expires_at"].endswith("Z")


@pytest.mark.parametrize(
    ("versions", "lowest"),
    [
        (["0.9.6", "0.31.1", "0.31.0-rc1"], "0.9.6"),
        (["", "0.31.1"], "0.31.1"),
        ([], "0.0.0"),
        (["x", "9" * 5000, "0.1\n", "1." * 5000, "0.31.1"], "0.31.1"),
    ],
)
def test_the_version_is_the_oldest_of_all_and_what_is_none_is_left_out(versions: list[str], lowest: str) -> None:
    peers = [peer(node(f"n{number}", ollama=ready_ollama(version=text))) for number, text in enumerate(versions)]
    assert table([], peers)["listing"]["version"] == lowest


def test_a_model_without_a_copy_is_not_listed_but_is_known() -> None:
    made = table([model(NAME, digest=b"", info=info(NAME))], [peer(node())])
    assert made["listing"]["tags"] == []
    assert made["models"][NAME]["digest"] == ""


def before_the_restart() -> Table:
    loaded = [LoadedModel(model=NAME, digest=digest(NAME), expires_unix_seconds=0)]
    peers = [peer(node(name, ollama=ready_ollama(loaded=loaded, models_directory="/m"))) for name in ("nas", "tower")]
    both = model(NAME, copy("nas"), copy("tower", loaded=True))
    return routes([both], peers, RouteSettings(mirror_root="/m"), {})


def unheard(name: str, **entry: Any) -> Peer:
    return peer(node(name, heard=False, ollama=OllamaStatus(), link=Link.BROKEN, epoch=0, **entry))


def test_a_restarted_daemon_keeps_what_it_said_of_nodes_that_were_not_heard_yet() -> None:
    former = before_the_restart()
    assert table([], [unheard("nas"), unheard("tower")], former) == former


def test_each_node_that_is_heard_takes_its_part_over() -> None:
    again = peer(node("tower", ollama=ready_ollama(port=2)))
    now = model(NAME, copy("nas", usable=False, reason="nas is suspect"), copy("tower"))
    made = table([now], [unheard("nas"), again], before_the_restart())
    assert made["nodes"]["tower"]["port"] == 2
    assert made["nodes"]["nas"]["port"] == 11443
    assert made["models"][NAME]["nodes"] == {"nas": {"loaded": False, "fit": 1}, "tower": {"loaded": False, "fit": 1}}


@pytest.mark.parametrize(
    "gone",
    [
        peer(node("nas", link=Link.SILENT, epoch=0, heard=False)),  # its grace time is over
        peer(node("nas", link=Link.BROKEN)),  # came back, and went again
        unheard("nas", desired=Desired.DRAINED),
    ],
)
def test_a_node_that_did_not_come_back_is_out(gone: Peer) -> None:
    made = table([model(NAME, copy("nas", usable=False, reason="gone"))], [gone], before_the_restart())
    assert made["nodes"] == {}
    assert made["models"][NAME]["nodes"] == {}
    assert made["models"][NAME]["reason"]


def test_a_node_that_was_removed_is_out_after_a_restart_too() -> None:
    assert list(table([], [unheard("tower")], before_the_restart())["nodes"]) == ["tower"]


def test_an_old_copy_counts_no_more_when_the_cluster_s_digest_is_another() -> None:
    other = model(NAME, copy("new"), digest=b"\1" * 32)
    made = table([other], [unheard("nas"), peer(node("new"))], before_the_restart())
    assert made["models"][NAME]["digest"] == "01" * 32
    assert list(made["models"][NAME]["nodes"]) == ["new"]


def test_settings_and_revoked_serials_are_told() -> None:
    made = routes([], [], RouteSettings(True, 5, "/models", {"b", "a"}), {})
    assert made["settings"] == {"loopback_without_key": True, "mirror_bytes_per_second": 5}
    assert made["mirror"] == {"root": "/models"}
    assert made["revoked_serials"] == ["a", "b"]


@pytest.mark.parametrize(
    "damaged",
    [{"nodes": []}, {"models": 1, "listing": None}, {"mirror": "x"}, {"models": {NAME: 1}, "listing": {"tags": [3]}}],
)
def test_a_damaged_former_table_is_no_table(damaged: Table) -> None:
    assert table([], [unheard("tower")], damaged)["nodes"] == {}
