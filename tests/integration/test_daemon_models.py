"""Models on a real daemon with simulated nodes: where they go, who fetches first, and what outlives a power cut."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusterai.machine import own_machine_id
from clusterai.v1 import model_pb2 as pb
from clusterai.v1.event_pb2 import WatchEventsRequest
from clusterai.v1.event_pb2_grpc import EventServiceStub
from clusterai.v1.model_pb2_grpc import ModelServiceStub
from clusterai.v1.node_admin_pb2 import RemoveNodeRequest
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    OllamaStatus,
    PullStatus,
)
from support.killable import KillableDaemon, killable_daemon
from support.model_node import SOON, listed, listed_model, model_node, reconnected
from support.ollama_status import GB, digest, loaded, model, ollama, pull
from support.sim_node import operator, sim_node
from support.waiting import until

NAME = "llama3.2:3b"
PATIENT = "[session]\nheartbeat_seconds = 300\noffline_seconds = 3600\n"  # the nodes here send no heartbeats


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[KillableDaemon]:
    gateway = tmp_path / "gateway"  # with one there is a mirror
    gateway.mkdir()
    async with killable_daemon(tmp_path, settings=f'{PATIENT}[gateway]\ndirectory = "{gateway}"\n') as running:
        yield running


def named(*nodes: str) -> pb.PlacementWish:
    return pb.PlacementWish(node_ids=nodes)


async def place(daemon: KillableDaemon, name: str = NAME, **wish: Any) -> dict[str, pb.Candidate]:
    async with operator(daemon, ModelServiceStub) as stub:
        request = pb.PlaceModelRequest(model=name, wish=pb.PlacementWish(**wish))
        return {one.node_id: one for one in (await stub.PlaceModel(request, timeout=60)).candidates}


async def remove(daemon: KillableDaemon, name: str = NAME, *nodes: str) -> list[str]:
    async with operator(daemon, ModelServiceStub) as stub:
        answer = await stub.RemoveModel(pb.RemoveModelRequest(model=name, node_ids=nodes), timeout=60)
        return list(answer.node_ids)


async def copies(daemon: KillableDaemon, name: str = NAME) -> dict[str, pb.ModelCopy]:
    found = await listed_model(daemon, name)
    return {copy.node_id: copy for copy in found.copies} if found else {}


async def usable(daemon: KillableDaemon, name: str = NAME) -> list[str]:
    return [node_id for node_id, copy in (await copies(daemon, name)).items() if copy.usable]


async def eventually_usable(daemon: KillableDaemon, *nodes: str, name: str = NAME) -> None:
    async with asyncio.timeout(SOON):
        while await usable(daemon, name) != list(nodes):
            await asyncio.sleep(0.02)


async def eventually_pulled(daemon: KillableDaemon, node_id: str, follower: str) -> None:
    """Wait until whoever follows the pull is shown that the node is at it."""
    async with operator(daemon, ModelServiceStub) as stub, asyncio.timeout(SOON):
        steps = stub.PullModel(pb.PullModelRequest(model=NAME, wish=named(follower)))
        await steps.read()
        while not (step := await steps.read()).nodes[0].HasField("pull"):
            assert not step.done
        assert step.nodes[0].node_id == node_id
        steps.cancel()


async def events(daemon: KillableDaemon) -> list[str]:
    async with operator(daemon, EventServiceStub) as stub:
        return [answer.event.kind async for answer in stub.WatchEvents(WatchEventsRequest(limit=1000), timeout=60)]


async def rest(steps: Any) -> list[pb.PullModelResponse]:
    """Read a stream to its end."""
    said = []
    while isinstance(step := await steps.read(), pb.PullModelResponse):
        said.append(step)
    return said


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return str(caught.value.details())


# ---- where it goes -----------------------------------------------------------------------------------------------


async def test_a_pull_goes_to_the_best_node_and_is_followed_until_it_is_there(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower, model_node(daemon, "pi", gpu=0) as pi:
        async with operator(daemon, ModelServiceStub) as stub:
            steps = stub.PullModel(pb.PullModelRequest(model="Llama3.2:3B"), timeout=60)
            first = await steps.read()
            assert [(one.node_id, one.chosen, one.fit) for one in first.candidates] == [
                ("tower", True, pb.FIT_GPU), ("pi", False, pb.FIT_MAIN_MEMORY),
            ]
            assert first.candidates[0].reason == "fits in the 24 GB of its GPU"
            await tower.hears(lambda _: tower.wanted(NAME) is not None)
            assert pi.wanted(NAME) is None
            assert not tower.wanted(NAME).from_mirror  # type: ignore[union-attr]
            tower.pulls = [pull(state=PULL_STATE_PULLING, completed_bytes=1, total_bytes=2)]
            await tower.tell()
            while not (step := await steps.read()).nodes[0].pull.completed_bytes:
                assert not step.done
            tower.pulls = []
            await tower.tell(model())
            said = await rest(steps)
        assert said[-1].done
        assert said[-1].nodes[0].present
        assert said[-1].message == f"{NAME} is on tower"
        assert await usable(daemon) == ["tower"]
        found = await listed_model(daemon, NAME)
        assert found is not None
        assert (found.managed, found.digest) == (True, digest("one"))
        assert {"model-pulling", "model-present"} <= set(await events(daemon))


async def test_the_server_fetches_first_and_the_others_fetch_its_copy(daemon: KillableDaemon) -> None:
    async with (
        model_node(daemon, "srv", gpu=0, machine_id=own_machine_id(), mirror=True) as server,
        model_node(daemon, "tower") as tower,
    ):
        await place(daemon, node_ids=["tower"])
        await tower.hears(lambda _: tower.wanted(NAME) is not None)
        await server.hears(lambda _: server.wanted(NAME) is not None)
        waiting = tower.wanted(NAME)
        assert waiting is not None
        assert (waiting.waits, waiting.from_mirror) == (True, False)
        assert tower.spec.mirror_address == ":11444"
        server.pulls = [pull(origin="registry", state=PULL_STATE_PULLING)]
        await server.tell()
        await eventually_pulled(daemon, "srv", "tower")
        assert server.wanted(NAME) is not None  # not told to stop
        server.pulls = []
        await server.tell(model())
        await tower.hears(lambda _: not (tower.wanted(NAME) or waiting).waits)
        wanted = tower.wanted(NAME)
        assert wanted is not None
        assert (wanted.from_mirror, wanted.digest) == (True, digest("one"))
        await tower.tell(model())
        await eventually_usable(daemon, "srv", "tower")


async def test_the_limit_of_copies_over_the_lan_is_told_to_the_gateway_until_they_are_done(
    daemon: KillableDaemon,
) -> None:
    def limit() -> int:
        table: dict[str, dict[str, int]] = json.loads((daemon.directory / "gateway/routes.json").read_bytes())
        return table["settings"]["mirror_bytes_per_second"]

    async with model_node(daemon, "tower") as tower, operator(daemon, ModelServiceStub) as stub:
        steps = stub.PullModel(pb.PullModelRequest(model=NAME, limit_bytes_per_second=5000), timeout=60)
        await steps.read()
        await until(lambda: limit() == 5000, SOON)
        await tower.tell(model())
        await rest(steps)
        await until(lambda: limit() == 0, SOON)


async def test_a_server_that_cannot_fetch_holds_up_nobody(daemon: KillableDaemon) -> None:
    async with (
        model_node(daemon, "srv", gpu=0, machine_id=own_machine_id(), mirror=True) as server,
        model_node(daemon, "tower") as tower,
    ):
        await place(daemon, node_ids=["tower"])
        await tower.hears(lambda _: tower.wanted(NAME) is not None)
        server.pulls = [pull(state=PULL_STATE_FAILED, reason="no way to the registry")]
        await server.tell()
        await tower.hears(lambda _: tower.wanted(NAME) is not None and not tower.wanted(NAME).waits)  # type: ignore[union-attr]
        server.pulls = [pull(state=PULL_STATE_PULLING)]  # it tries again by itself: the other goes on
        await server.tell()
        await asyncio.sleep(0.3)
        wanted = tower.wanted(NAME)
        assert wanted is not None
        assert not wanted.waits
        assert not wanted.from_mirror


async def test_where_it_would_go_is_said_without_doing_it(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower, operator(daemon, ModelServiceStub) as stub:
        request = pb.PullModelRequest(model=NAME, dry_run=True)
        (said,) = [step async for step in stub.PullModel(request, timeout=60)]
        assert said.done
        assert said.candidates[0].chosen
        assert said.candidates[0].needed_bytes > 2 * GB
        assert tower.wanted(NAME) is None
        assert not (await listed(daemon)).models


async def test_what_fits_nowhere_is_refused_with_each_nodes_reason(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "pi", gpu=0), operator(daemon, ModelServiceStub) as stub, sim_node(daemon, "bare"):
        said = await refused(place(daemon, "llama3.3:70b"))
        assert said.startswith("llama3.3:70b cannot be placed on any node: ")
        assert "pi: needs 49.2 GB, has 6.9 GB free" in said
        assert "bare: needs 49.2 GB, has 6.9 GB free" in said  # it is off, and would be too small anyway
        assert "on pi: pi: needs" in await refused(place(daemon, "llama3.3:70b", node_ids=["pi"]))
        await place(daemon, "qwen3:0.6b", node_ids=["bare"])  # who is off gets it when it is back
        assert await remove(daemon, "qwen3:0.6b") == ["bare"]
        assert "there is no node 'nobody'" in await refused(place(daemon, node_ids=["nobody"]))
        assert "exclude each other" in await refused(place(daemon, node_ids=["pi"], gpus=True))
        assert "on a GPU of any node" in await refused(place(daemon, gpus=True))
        assert "is no name of a model" in await refused(place(daemon, "a b"))
        assert "there is no model nothing:latest" in await refused(remove(daemon, "nothing"))
        assert not (await listed(daemon)).models
        said = await refused(stub.ListCatalog(pb.ListCatalogRequest(type="poem"), timeout=60))
        assert "'poem' is none of text, code" in said


async def test_who_follows_a_pull_may_leave_and_is_told_at_a_bounded_rate(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower, operator(daemon, ModelServiceStub) as stub:
        steps = stub.PullModel(pb.PullModelRequest(model=NAME), timeout=60)
        begun, count = time.monotonic(), 0
        await steps.read()
        for completed in range(1, 200):
            tower.pulls = [pull(state=PULL_STATE_PULLING, completed_bytes=completed, total_bytes=200)]
            await tower.tell()
            await asyncio.sleep(0.01)
        while (await steps.read()).nodes[0].pull.completed_bytes < 199:
            count += 1
        assert 1 <= count <= 4 * (time.monotonic() - begun) + 2
        steps.cancel()
        await tower.tell(model())
        await eventually_usable(daemon, "tower")


async def test_a_failed_pull_ends_the_stream_with_the_reason_and_goes_on(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower, operator(daemon, ModelServiceStub) as stub:
        steps = stub.PullModel(pb.PullModelRequest(model=NAME), timeout=60)
        await steps.read()
        tower.pulls = [pull(state=PULL_STATE_FAILED, reason="the registry has no such model")]
        await tower.tell()
        said = (await rest(steps))[-1]
        assert said.done
        assert said.message.endswith("tower: the registry has no such model")
        assert tower.wanted(NAME) is not None
        (drift,) = (await listed(daemon)).drifts
        assert (drift.kind, drift.node_id) == (pb.DRIFT_KIND_MISSING, "tower")


# ---- removal, drift ------------------------------------------------------------------------------------------------


async def test_a_model_is_removed_where_it_is_and_the_wish_stands_until_it_is_gone(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower, model_node(daemon, "pi", gpu=0) as pi:
        await tower.tell(model())
        await pi.tell(model())
        await eventually_usable(daemon, "pi", "tower")
        assert await remove(daemon, NAME, "pi") == ["pi"]
        await pi.hears(lambda _: pi.wanted(NAME) is not None and pi.wanted(NAME).absent)  # type: ignore[union-attr]
        assert tower.wanted(NAME) is None
        await pi.tell(findings=["it is still there"])
        await asyncio.sleep(0.3)
        wanted = pi.wanted(NAME)
        assert wanted is not None
        assert wanted.absent
        await daemon.kill()
        assert daemon.query("SELECT * FROM placement") == [(NAME, "pi", "absent")]
        await daemon.start()
        async with reconnected(daemon, pi.node, model(), gpu=0) as pi_again:
            await pi_again.hears(lambda _: pi_again.wanted(NAME) is not None)
            pi_again.models.clear()
            await pi_again.tell()
            await pi_again.hears(lambda _: pi_again.wanted(NAME) is None)
        assert daemon.query("SELECT * FROM placement") == []
        assert "model-removed" in await events(daemon)


async def test_copies_that_differ_are_shown_get_no_requests_and_are_mended(daemon: KillableDaemon) -> None:
    async with (
        model_node(daemon, "srv", gpu=0, machine_id=own_machine_id(), mirror=True) as server,
        model_node(daemon, "tower") as tower,
    ):
        await server.tell(model())
        await eventually_usable(daemon, "srv")
        await tower.tell(model(content="two", modified_unix_seconds=1))
        await until_drifts(daemon, pb.DRIFT_KIND_DIGEST)
        (drift,) = (await listed(daemon)).drifts
        assert drift.node_id == "srv"  # the newest counts as long as nothing is fixed
        assert drift.fix == f"`clusteractl model sync {NAME}`"
        async with operator(daemon, ModelServiceStub) as stub:
            mended = (await stub.SyncModels(pb.SyncModelsRequest(), timeout=60)).mended
        assert [one.node_id for one in mended] == ["tower"]  # what the server has can be spread
        await tower.hears(lambda _: tower.wanted(NAME) is not None)
        wanted = tower.wanted(NAME)
        assert wanted is not None
        assert (wanted.digest, wanted.from_mirror) == (digest("one"), True)
        await tower.tell(model())
        await eventually_usable(daemon, "srv", "tower")
        assert not (await listed(daemon)).drifts
        async with operator(daemon, ModelServiceStub) as stub:
            assert not (await stub.SyncModels(pb.SyncModelsRequest(), timeout=60)).mended  # nothing is left to mend
        assert "model-drift" in await events(daemon)


async def until_drifts(daemon: KillableDaemon, *kinds: "pb.DriftKind") -> None:
    async with asyncio.timeout(SOON):
        while [drift.kind for drift in (await listed(daemon)).drifts] != list(kinds):
            await asyncio.sleep(0.02)


async def test_a_node_that_was_removed_takes_its_placements_along_and_another_is_chosen(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower", gpu=48 * GB) as tower, model_node(daemon, "box") as box:
        judged = await place(daemon, replica_count=1)
        assert judged["tower"].chosen
        await place(daemon, "qwen3:8b", node_ids=["tower"])
        await tower.hears(lambda _: len(tower.spec.models) == 2)
        async with operator(daemon, NodeAdminServiceStub) as stub:
            await stub.RemoveNode(RemoveNodeRequest(node_id="tower"), timeout=60)
        await box.hears(lambda _: box.wanted(NAME) is not None)
        assert box.wanted("qwen3:8b") is None
        assert daemon.query("SELECT model, node_id FROM placement") == [(NAME, "box")]
        assert daemon.query("SELECT model FROM model") == [(NAME,)]


# ---- what outlives a power cut -------------------------------------------------------------------------------------


async def test_what_is_wanted_outlives_a_power_cut(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower, model_node(daemon, "pi", gpu=0) as pi:
        await place(daemon, node_ids=["tower", "pi"])
        await tower.tell(model())
        await until(lambda: daemon.query("SELECT digest FROM model") == [(digest("one"),)], SOON)
        await daemon.kill()
        await daemon.start()
        assert set(await copies(daemon)) == {"tower", "pi"}
        async with reconnected(daemon, tower.node, model()), reconnected(daemon, pi.node, gpu=0) as pi_again:
            await eventually_usable(daemon, "tower")
            assert pi_again.wanted(NAME) is not None
            found = await listed_model(daemon, NAME)
            assert found is not None
            assert (found.managed, found.digest) == (True, digest("one"))


async def place_on_and_on(daemon: KillableDaemon, number: int, known: dict[str, set[str]]) -> None:
    """Place and remove models until the daemon is gone. A change under way may have happened or not."""
    async with operator(daemon, ModelServiceStub) as stub:
        while True:
            number += 1
            name = f"m{number}:latest"
            known[name] = {"", "present"}
            await stub.PlaceModel(pb.PlaceModelRequest(model=name, wish=named("tower")), timeout=60)
            known[name] = {"present"}
            if number % 3 == 0:
                known[name] = {"", "present", "absent"}
                await stub.RemoveModel(pb.RemoveModelRequest(model=name), timeout=60)
                known[name] = {"", "absent"}


async def test_every_acknowledged_wish_is_there_after_sigkill(daemon: KillableDaemon) -> None:
    known: dict[str, set[str]] = {}
    async with sim_node(daemon, "tower") as tower:
        for attempt in range(8):
            async with reconnected(daemon, tower):
                placing = asyncio.create_task(place_on_and_on(daemon, attempt * 1000, known))
                await asyncio.sleep(0.05 + 0.1 * attempt)
                await daemon.kill()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await placing
            await daemon.start()
        stored = dict(daemon.query("SELECT model, desired FROM placement"))
        assert len(known) > 20
        wrong = {name: (stored.get(name, ""), allowed) for name, allowed in known.items()
                 if stored.get(name, "") not in allowed}
        assert not wrong
        wanted = {row[0] for row in daemon.query("SELECT model FROM model")}
        assert wanted == {name for name, desired in stored.items() if desired == "present"}
        async with reconnected(daemon, tower) as back:
            assert {entry.model for entry in back.spec.models if not entry.absent} == wanted


# ---- liars ---------------------------------------------------------------------------------------------------------


async def test_a_node_that_lies_harms_nobody_else(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "honest") as honest, sim_node(daemon, "liar") as liar:
        await place(daemon, node_ids=["honest"])
        await honest.tell(model())
        await eventually_usable(daemon, "honest")
        session = await liar.session("liar")
        unknown: Any = 77
        lies = [
            ollama(model(content="evil", modified_unix_seconds=float("inf"))),
            ollama(*(model(f"m{number}", size=(1 << 64) - 1) for number in range(300))),
            ollama(model("../../etc/passwd"), model("a\nb"), model("x" * 5000), model(digest=b"short")),
            ollama(loaded=[loaded(size=(1 << 64) - 1, vram=(1 << 64) - 1)] * 90, disk_free_bytes=(1 << 64) - 1),
            ollama(pulls=[PullStatus(model=NAME, state=unknown, completed_bytes=(1 << 64) - 1, reason="\x1b[2J")]),
            OllamaStatus(state=unknown, version="\x00" * 99, reason="\x1b"),
        ]
        for lie in lies:
            await session.report(NodeStatus(ollama=lie))
            await session.beat()
            assert await usable(daemon) == ["honest"]
        names = [entry.model for entry in (await listed(daemon)).models]
        assert names == [NAME]
        await honest.tell()
        assert await usable(daemon) == ["honest"]


async def test_many_models_of_one_node_are_taken_in_one_report(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower:
        await tower.tell(*(model(f"model-number-{number}:latest-q4", content=str(number)) for number in range(1000)))
        async with asyncio.timeout(SOON):
            while len((await listed(daemon)).models) != 512:
                await asyncio.sleep(0.05)
        kinds = await events(daemon)
        assert len(kinds) < 40


# ---- catalogue, why ------------------------------------------------------------------------------------------------


async def test_the_catalogue_says_what_fits_where_and_what_to_take(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower"), operator(daemon, ModelServiceStub) as stub:
        answer = await stub.ListCatalog(pb.ListCatalogRequest(type="code", fits=True), timeout=60)
        assert answer.catalog_version
        names = [entry.model for entry in answer.entries]
        assert "qwen2.5-coder:7b" in names
        assert [entry.size_bytes for entry in answer.entries] == sorted(entry.size_bytes for entry in answer.entries)
        assert answer.entries[0].candidates[0].node_id == "tower"
        every = await stub.ListCatalog(pb.ListCatalogRequest(), timeout=60)
        assert "llama3.3:70b" in [entry.model for entry in every.entries]
        picks = await stub.RecommendModels(pb.RecommendModelsRequest(purpose="programming"), timeout=60)
        code = next(one for one in picks.recommendations if one.entry.type == "code")
        assert code.command == f"clusteractl model pull {code.entry.model}"
        assert "on the GPU of tower" in code.reason


async def test_why_a_request_goes_where_it_goes_is_explained(daemon: KillableDaemon) -> None:
    async with model_node(daemon, "tower") as tower, model_node(daemon, "box") as box:
        await tower.tell(model())
        await box.tell(model(), loaded=[loaded()])
        await eventually_usable(daemon, "box", "tower")
        async with operator(daemon, ModelServiceStub) as stub:
            answer = await stub.ExplainRoute(pb.ExplainRouteRequest(model="LLAMA3.2:3b"), timeout=60)
            assert [(step.node_id, step.loaded) for step in answer.peers] == [("box", True), ("tower", False)]
            assert answer.peers[0].reason == "would get the request: has it loaded, fits on its GPU"
            unknown = await stub.ExplainRoute(pb.ExplainRouteRequest(model="llama3.2:1b"), timeout=60)
            assert unknown.answer == "there is no model llama3.2:1b in this cluster"
            assert list(unknown.closest) == [NAME]
