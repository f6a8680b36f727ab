"""Models on a node: what it tells of its Ollama, and how it brings models to what is wanted. Ollama is the double."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clusterai.models import GATEWAY_NAME, MIRROR_NAME
from clusterai.units import UnitsConfig, open_units
from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import ModelSpec, OllamaSettings, OllamaSpec, OllamaStatus, PullStatus
from clusterai_agent.config import AgentConfig, BackEnd, OllamaSection, StateSection, UnitsSection
from clusterai_agent.models.keeper import ModelKeeper
from clusterai_agent.models.listening import task_user
from clusterai_agent.models.switch import open_models
from clusterai_agent.unitsconfig import units_config
from fakes.http import asked
from fakes.ollama import FakeOllama, fake_ollama
from fakes.registry import FakeRegistry, make_model
from support.gate_peers import (
    DirectServer,
    forward,
    gateway,
    is_let_in,
    listening,
    mirror_context,
    through,
)
from support.node_daemon import NodeDaemon
from support.ports import free_port
from support.waiting import until

PART = 100_000
LLAMA, OTHER = make_model(size_bytes=10 * PART), make_model(size_bytes=9 * PART, seed=2)
SMALL = make_model("small:1b", size_bytes=1000, seed=3)
FAST = {"FAKE_OLLAMA_PART_BYTES": str(PART), "FAKE_OLLAMA_RETRY_SECONDS": "0.01"}


@dataclass
class Node:
    """A node with an Ollama, a registry behind it, and the part of the agent that keeps models."""

    directory: Path
    ollama: FakeOllama
    registry: FakeRegistry
    mirror_port: int = field(default_factory=free_port)
    gate_port: int = field(default_factory=free_port)
    daemon: NodeDaemon = field(default_factory=NodeDaemon)

    @property
    def config(self) -> AgentConfig:
        return AgentConfig(
            state=StateSection(self.directory / "agent", self.directory / "compute", self.directory / "dask"),
            units=UnitsSection(BackEnd.PROCESS, stop_on_exit=True),
            ollama=OllamaSection(True, f"127.0.0.1:{self.ollama.port}", self.ollama.settings.models, self.mirror_port),
        )

    @asynccontextmanager
    async def keeper(self, task_user: Callable[[], int | None] = task_user) -> AsyncIterator[ModelKeeper]:
        """The agent's part, as it runs from one start to its end."""
        async with open_units(units_config(self.config)) as units:
            keeper = ModelKeeper(self.config, units, DirectServer(self.daemon), lambda: None, task_user)
            running = asyncio.create_task(keeper.run(), name="keeper")
            try:
                yield keeper
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    def spec(self, *models: ModelSpec, mirror: str = "", settings: OllamaSettings | None = None) -> NodeSpec:
        return NodeSpec(ollama=OllamaSpec(
            settings=settings, models=models, gate_port=self.gate_port, gateway_name=GATEWAY_NAME,
            mirror_address=mirror, mirror_name=MIRROR_NAME,
        ))  # fmt: skip

    def asked_for(self, path: str) -> int:
        """How many requests for the path Ollama has had."""
        return sum(seen.path == path for seen in self.ollama.requests)


@asynccontextmanager
async def node(directory: Path, **variables: str) -> AsyncIterator[Node]:
    async with AsyncExitStack() as parts:
        registry = await parts.enter_async_context(FakeRegistry([LLAMA, SMALL]))
        settings = {**FAST, "FAKE_OLLAMA_REGISTRY": registry.url, **variables}
        ollama = await parts.enter_async_context(fake_ollama(directory / "models", **settings))
        yield Node(directory, ollama, registry)


def digests(keeper: ModelKeeper) -> dict[str, str]:
    """What the node says it has."""
    return {model.model: model.digest.hex() for model in status(keeper).models}


def status(keeper: ModelKeeper) -> OllamaStatus:
    return keeper.status


def pull(keeper: ModelKeeper, name: str = "llama3.2:3b") -> PullStatus:
    """What the node says of a fetch; empty when there is none."""
    return next((each for each in status(keeper).pulls if each.model == name), PullStatus())


def wanted(name: str = "llama3.2:3b", digest: str = "", **more: bool) -> ModelSpec:
    return ModelSpec(model=name, digest=bytes.fromhex(digest), **more)


async def chat(ollama: FakeOllama, model: str = "llama3.2:3b") -> list[dict[str, object]]:
    """Have a conversation; return the lines of the stream."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}).encode()
    async with asked("POST", f"{ollama.url}/api/chat", None, body) as answer:
        return [json.loads(line) for line in (await answer.body()).splitlines()]


async def test_what_is_there_is_told_before_anybody_asks(tmp_path: Path) -> None:
    async with node(tmp_path) as here, open_units(units_config(here.config)) as units:
        LLAMA.install(here.ollama.settings.models)
        keeper = ModelKeeper(here.config, units, DirectServer(here.daemon), lambda: None)
        await keeper.look()
        told = status(keeper)
        assert (told.state, told.version, told.source) == (types.SERVICE_STATE_READY, "0.31.1", "address")
        assert digests(keeper) == {"llama3.2:3b": LLAMA.digest}
        (model,) = told.models
        assert (model.size_bytes, model.quantization, model.parameter_size) == (LLAMA.size, "Q4_K_M", "3.2B")
        assert "completion" in model.capabilities
        assert (model.shape.layer_count, model.shape.kv_head_count, model.shape.key_length) == (28, 8, 128)
        assert model.shape.context_length == 131_072
        assert told.models_directory == str(here.ollama.settings.models)
        assert told.disk_free_bytes > 0


async def test_a_model_that_is_loaded_is_told_within_seconds_and_shown_once(tmp_path: Path) -> None:
    async with node(tmp_path, OLLAMA_CONTEXT_LENGTH="4096") as here:
        LLAMA.install(here.ollama.settings.models)
        async with here.keeper() as keeper:
            keeper.want(here.spec(settings=OllamaSettings(context_length=8192, parallel_count=2, keep_alive="5m")))
            await until(lambda: digests(keeper))
            await chat(here.ollama)
            await until(lambda: status(keeper).loaded)
            loaded = status(keeper).loaded[0]
            assert (loaded.model, loaded.context_length) == ("llama3.2:3b", 4096)
            assert "loaded with a context of 4096 tokens in place of 8192" in " ".join(status(keeper).findings)
            keeper.want(here.spec())  # every spec makes it look at everything again
            before = here.asked_for("/api/tags")
            await until(lambda: here.asked_for("/api/tags") > before)
            assert here.asked_for("/api/show") == 1


async def test_a_model_is_fetched_from_the_registry_with_its_progress(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        here.registry.trouble.bytes_per_second = PART // 20  # what comes at once is two thirds of each part
        keeper.want(here.spec(wanted(digest=LLAMA.digest), wanted("small:1b")))
        await until(lambda: pull(keeper).completed_bytes)
        told = pull(keeper)
        assert (told.state, getattr(told, "from")) == (types.PULL_STATE_PULLING, "registry")
        assert 0 < told.completed_bytes <= told.total_bytes
        waiting = pull(keeper, "small:1b")
        assert (waiting.state, waiting.reason) == (types.PULL_STATE_WAITING, "after llama3.2:3b")
        here.registry.trouble.bytes_per_second = 0
        await until(lambda: digests(keeper) == {"llama3.2:3b": LLAMA.digest, "small:1b": SMALL.digest})
        await until(lambda: not status(keeper).pulls)
        assert here.asked_for("/api/pull") == 2, "each once"


async def test_a_fetch_goes_on_where_it_was_after_a_restart_of_agent_and_ollama(tmp_path: Path) -> None:
    async with AsyncExitStack() as parts:
        registry = await parts.enter_async_context(FakeRegistry([LLAMA]))
        settings = {**FAST, "FAKE_OLLAMA_REGISTRY": registry.url}
        registry.trouble.hold = asyncio.Event()
        async with fake_ollama(tmp_path / "models", **settings) as ollama:
            here = Node(tmp_path, ollama, registry)
            async with here.keeper() as keeper:
                keeper.want(here.spec(wanted()))
                await until(lambda: pull(keeper).total_bytes)
                registry.trouble.hold.set()
                registry.trouble.hold, registry.trouble.stalls = None, 1
                await until(lambda: pull(keeper).completed_bytes > LLAMA.size // 2)
        registry.trouble.stalls, registry.requests = 0, []
        async with fake_ollama(tmp_path / "models", **settings) as ollama:
            here = Node(tmp_path, ollama, registry)
            async with here.keeper() as keeper:
                keeper.want(here.spec(wanted()))
                await until(lambda: digests(keeper) == {"llama3.2:3b": LLAMA.digest})
        fetched = [text for _, path, text in registry.requests if path == f"/data/{LLAMA.weights}" and text]
        assert 0 < len(fetched) < 10, "what was there was not fetched again"


async def test_a_failure_is_shown_and_tried_again_by_itself(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        here.registry.trouble.status = 500
        keeper.want(here.spec(wanted()))
        await until(lambda: pull(keeper).state == types.PULL_STATE_FAILED)
        told = pull(keeper)
        assert "Ollama says: " in told.reason
        assert "tried 1 time, again within" in told.reason
        assert told.hint
        here.registry.trouble.status = 0
        await until(lambda: digests(keeper) == {"llama3.2:3b": LLAMA.digest})
        await until(lambda: not status(keeper).pulls)


async def test_damage_on_the_way_is_never_taken_for_the_model(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        here.registry.trouble.corrupt.add(LLAMA.weights)
        keeper.want(here.spec(wanted(digest=LLAMA.digest)))
        await until(lambda: pull(keeper).state == types.PULL_STATE_FAILED)
        assert digests(keeper) == {}
        here.registry.trouble.corrupt.clear()
        await until(lambda: digests(keeper) == {"llama3.2:3b": LLAMA.digest})


async def test_a_full_disk_is_said_and_nothing_is_left_half_done(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        here.ollama.faults.disk_full = True
        keeper.want(here.spec(wanted()))
        await until(lambda: pull(keeper).state == types.PULL_STATE_FAILED)
        assert "no space left" in pull(keeper).reason
        here.ollama.faults.disk_full = False
        await until(lambda: digests(keeper) == {"llama3.2:3b": LLAMA.digest})


async def test_another_digest_than_the_cluster_s_is_drift_and_is_mended(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        OTHER.install(here.ollama.settings.models)
        keeper.want(here.spec(wanted(digest=LLAMA.digest)))
        await until(lambda: digests(keeper) == {"llama3.2:3b": LLAMA.digest})


async def test_a_registry_with_another_digest_is_named(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        keeper.want(here.spec(wanted(digest=OTHER.digest)))
        await until(lambda: pull(keeper).state == types.PULL_STATE_FAILED)
        assert f"not what the cluster has: {LLAMA.digest[:12]} in place of {OTHER.digest[:12]}" in pull(keeper).reason
        assert "clusteractl model sync llama3.2:3b" in pull(keeper).hint


async def test_a_name_that_nobody_offers_says_how_to_give_it_up(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        keeper.want(here.spec(wanted("nosuch:1b")))
        await until(lambda: pull(keeper, "nosuch:1b").state == types.PULL_STATE_FAILED)
        assert "the registry has no model nosuch:1b" in pull(keeper, "nosuch:1b").reason
        assert "clusteractl model rm nosuch:1b" in pull(keeper, "nosuch:1b").hint


async def test_a_model_is_removed_and_a_stream_that_runs_goes_on_to_its_end(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        LLAMA.install(here.ollama.settings.models)
        SMALL.install(here.ollama.settings.models)
        await until(lambda: len(digests(keeper)) == 2)
        here.ollama.faults.token_seconds, here.ollama.faults.tokens = 0.3, 12
        talking = asyncio.create_task(chat(here.ollama), name="chat")
        await until(lambda: status(keeper).loaded)
        keeper.want(here.spec(wanted(absent=True)))
        await until(lambda: list(digests(keeper)) == ["small:1b"])
        lines = await talking
        assert lines[-1]["done"] is True
        assert len(lines) == 13, "twelve words and the end"


async def test_a_model_that_is_not_wanted_any_more_is_not_fetched_on(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        here.registry.trouble.hold = asyncio.Event()
        keeper.want(here.spec(wanted()))
        await until(lambda: pull(keeper).total_bytes)
        keeper.want(here.spec(wanted("small:1b", waits=True)))
        await until(lambda: any(seen.path == "/api/pull" for seen in here.ollama.aborts))
        await until(lambda: pull(keeper, "small:1b").reason == "the server fetches it first")
        assert not pull(keeper).model
        here.registry.trouble.hold.set()


@asynccontextmanager
async def mirror(here: Node, registry: FakeRegistry) -> AsyncIterator[str]:
    """The server's copies behind mTLS; yields the address for the spec, without the host."""
    inner = int(registry.authority.rpartition(":")[2])
    context = mirror_context(gateway(here.directory, here.daemon.cluster_ca), here.daemon.cluster_ca)
    async with listening(forward(inner), context) as port:
        yield f":{port}"


async def test_a_model_comes_from_the_server_under_its_own_name(tmp_path: Path) -> None:
    async with node(tmp_path) as here, FakeRegistry([LLAMA]) as copies, mirror(here, copies) as address:
        here.registry.trouble.status = 500  # the internet is not there
        OTHER.install(here.ollama.settings.models)
        async with here.keeper() as keeper:
            keeper.want(here.spec(wanted(digest=LLAMA.digest, from_mirror=True), mirror=address))
            await until(lambda: digests(keeper) == {"llama3.2:3b": LLAMA.digest})
            await until(lambda: not status(keeper).pulls)
        assert [str(model.name) for model in here.ollama.store.models()] == ["llama3.2:3b"], "the other name is gone"
        assert all(here.ollama.store.blob(d).read_bytes() == data for d, data in LLAMA.blobs.items())
        assert not here.registry.requests


async def test_the_server_s_copy_with_another_digest_takes_nobody_s_place(tmp_path: Path) -> None:
    async with (
        node(tmp_path) as here, FakeRegistry([OTHER]) as copies, mirror(here, copies) as address,
        here.keeper() as keeper,
    ):  # fmt: skip
        keeper.want(here.spec(wanted(digest=LLAMA.digest, from_mirror=True), mirror=address))
        await until(lambda: pull(keeper).state == types.PULL_STATE_FAILED)
        assert "what the server has under the name llama3.2:3b" in pull(keeper).reason
        await until(lambda: not here.ollama.store.models())


async def test_what_an_interrupted_fetch_left_under_the_mirror_s_name_is_used_or_removed(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        left = make_model(f"127.0.0.1:{here.mirror_port}/library/llama3.2:3b", size_bytes=10 * PART)
        left.install(here.ollama.settings.models)
        async with here.keeper() as keeper:
            await until(lambda: status(keeper).state == types.SERVICE_STATE_READY)
            assert digests(keeper) == {}, "it is no model of this node"
            keeper.want(here.spec())
            await until(lambda: not here.ollama.store.models())


async def test_without_a_way_to_the_server_it_waits_and_says_so(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        keeper.want(here.spec(wanted(from_mirror=True)))
        await until(lambda: pull(keeper).state == types.PULL_STATE_WAITING)
        await until(lambda: pull(keeper).reason == "the address of the server's copies is not known")
        assert here.asked_for("/api/pull") == 0


async def test_the_gate_opens_for_the_gateway_and_leads_to_ollama(tmp_path: Path) -> None:
    async with node(tmp_path) as here, here.keeper() as keeper:
        keeper.want(here.spec())
        await until(lambda: status(keeper).gate.state == types.SERVICE_STATE_READY)
        file = gateway(tmp_path, here.daemon.cluster_ca)
        assert status(keeper).gate.port == here.gate_port
        assert not await is_let_in(here.gate_port, here.daemon.cluster_ca, None)
        async with through(here.gate_port, here.daemon.cluster_ca, file) as wire:
            answer = await wire.asked(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b'{"version": "0.31.1"}' in answer.replace(b'":"', b'": "')
        await keeper.give_up()
        assert not await is_let_in(here.gate_port, here.daemon.cluster_ca, file)


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.transport.abort()
    return True


async def test_a_task_that_listens_in_ollama_s_place_is_never_ready_and_the_gate_closes(tmp_path: Path) -> None:
    """Everything of a test is of one user: from one moment on that is the user of Dask's tasks."""
    tasks: list[int] = []
    async with node(tmp_path) as here, here.keeper(lambda: next(iter(tasks), None)) as keeper:
        keeper.want(here.spec())
        await until(lambda: status(keeper).gate.state == types.SERVICE_STATE_READY)
        tasks.append(os.getuid())
        await until(state_is(keeper, types.SERVICE_STATE_FAILED))
        assert "it is of the user clusterai-dask, as which Dask runs tasks" in status(keeper).reason
        assert "sudo ss -ltnp" in status(keeper).hint
        await until(lambda: status(keeper).gate.state == types.SERVICE_STATE_STOPPED)
        assert not await is_open(here.gate_port)
        asked = len(here.ollama.requests)
        await asyncio.sleep(5)  # two more looks
        assert len(here.ollama.requests) == asked, "it is asked nothing"
        tasks.clear()
        await until(lambda: status(keeper).gate.state == types.SERVICE_STATE_READY)


async def test_a_task_in_ollama_s_place_closes_the_gate_before_the_server_is_there(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        async with here.keeper() as keeper:
            keeper.want(here.spec())
            await until(lambda: status(keeper).gate.state == types.SERVICE_STATE_READY)
        file = here.config.state.gate / "gate.json"
        assert file.exists(), "it shall run again after a boot"
        async with here.keeper(os.getuid) as keeper:
            await until(lambda: not file.exists())
            assert status(keeper).state == types.SERVICE_STATE_FAILED


async def test_a_gate_opens_again_without_the_server_when_ollama_is_there(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        async with here.keeper() as keeper:
            keeper.want(here.spec())
            await until(lambda: status(keeper).gate.state == types.SERVICE_STATE_READY)
        assert not await is_open(here.gate_port)
        async with here.keeper(), asyncio.timeout(60):
            while not await is_open(here.gate_port):
                await asyncio.sleep(0.1)


def state_is(keeper: ModelKeeper, state: int) -> Callable[[], bool]:
    return lambda: status(keeper).state == state


async def test_an_ollama_that_comes_later_goes_away_or_hangs_is_told(tmp_path: Path) -> None:
    port = free_port()
    config = AgentConfig(
        state=StateSection(tmp_path / "agent"), units=UnitsSection(BackEnd.PROCESS),
        ollama=OllamaSection(address=f"127.0.0.1:{port}"),
    )  # fmt: skip
    async with open_units(units_config(config)) as units:
        keeper = ModelKeeper(config, units, DirectServer(NodeDaemon()), lambda: None)
        running = asyncio.create_task(keeper.run(), name="keeper")
        try:
            await until(state_is(keeper, types.SERVICE_STATE_ABSENT))
            assert "sudo clusterai-agent setup ollama" in status(keeper).hint
            async with fake_ollama(tmp_path / "models", OLLAMA_HOST=f"127.0.0.1:{port}") as ollama:
                await until(state_is(keeper, types.SERVICE_STATE_READY))
                ollama.faults.garbage = ["/api/*"]
                await until(state_is(keeper, types.SERVICE_STATE_FAILED))
                assert "does not answer as Ollama does" in status(keeper).reason
                ollama.faults.garbage = []
                await until(state_is(keeper, types.SERVICE_STATE_READY))
                ollama.faults.hang = ["/api/*"]
                await until(lambda: status(keeper).state != types.SERVICE_STATE_READY)
            await until(state_is(keeper, types.SERVICE_STATE_ABSENT))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_where_it_is_switched_off_nothing_is_told(tmp_path: Path) -> None:
    config = AgentConfig(state=StateSection(tmp_path / "agent"), ollama=OllamaSection(enabled=False))
    async with open_units(UnitsConfig("process", tmp_path / "units")) as units:
        models = open_models(config, units, DirectServer(NodeDaemon()), lambda: None)
        await models.look()
        await models.run()
        models.want(NodeSpec())
        await models.give_up()
        assert models.status is None
