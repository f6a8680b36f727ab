"""What Ollama is started with: written by the agent, taken over by restarting ollama.service when nobody uses it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from clusterai.ollama_settings import Settings, main, read
from clusterai.units import UnitsConfig, open_units
from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import OllamaSettings, OllamaSpec, OllamaStatus
from clusterai_agent.config import AgentConfig, OllamaSection, StateSection
from clusterai_agent.models.keeper import ModelKeeper
from fakes.ollama import FakeOllama, fake_ollama
from support.fake_systemd import FakeSystemd, fake_systemd, private_bus
from support.gate_peers import DirectServer
from support.node_daemon import NodeDaemon
from support.waiting import until

UNIT = "ollama.service"
SETTINGS = OllamaSettings(context_length=8192, parallel_count=2, keep_alive="5m")
LONGER = OllamaSettings(context_length=16384, parallel_count=2, keep_alive="5m")


@dataclass
class Node:
    """A node whose Ollama is run by a unit."""

    systemd: FakeSystemd
    ollama: FakeOllama
    keeper: ModelKeeper
    file: Path
    taken: Path

    @property
    def process(self) -> int:
        """The unit's main process."""
        return int(self.systemd.units[UNIT].properties["MainPID"].value)

    @property
    def status(self) -> OllamaStatus:
        assert self.keeper.status is not None
        return self.keeper.status

    def want(self, settings: OllamaSettings) -> None:
        self.keeper.want(NodeSpec(ollama=OllamaSpec(settings=settings)))

    async def looks(self, count: int) -> None:
        """Wait until the agent has looked so often."""
        asked = len(self.ollama.requests)
        await until(lambda: len(self.ollama.requests) > asked + count)

    def says(self, text: str) -> bool:
        return any(text in finding for finding in self.status.findings)


@asynccontextmanager
async def node(directory: Path) -> AsyncIterator[Node]:
    with private_bus() as bus:
        async with (
            fake_systemd(bus.address) as systemd,
            open_units(UnitsConfig(bus_address=bus.address)) as units,
            fake_ollama(directory / "models") as ollama,
        ):
            file, taken = directory / "agent/gate/ollama.json", directory / "ollama.env"
            systemd.add(UNIT).before_start = lambda: main([str(file), str(taken)])
            await units.start(UNIT)  # type: ignore[arg-type]
            config = AgentConfig(
                state=StateSection(directory / "agent"),
                ollama=OllamaSection(address=f"127.0.0.1:{ollama.port}"),
            )
            (directory / "agent").mkdir()
            keeper = ModelKeeper(config, units, DirectServer(NodeDaemon()), lambda: None, settings_taken=taken)
            running = asyncio.create_task(keeper.run(), name="keeper")
            try:
                yield Node(systemd, ollama, keeper, file, taken)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def test_settings_are_written_and_taken_over_by_one_restart(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        await until(lambda: here.status.state == types.SERVICE_STATE_READY)
        assert here.status.source == "unit"
        assert not here.status.HasField("applied")
        before = here.process
        here.want(SETTINGS)
        await until(lambda: here.status.applied == SETTINGS)
        assert read(here.file) == Settings(8192, 2, "5m")
        after = here.process
        assert after not in (0, before)
        here.want(SETTINGS)
        await here.looks(5)
        assert here.process == after, "the same settings are no reason"


async def test_who_is_connected_is_not_cut_off_by_new_settings(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.want(SETTINGS)
        await until(lambda: here.status.applied == SETTINGS)
        before = here.process
        _, writer = await asyncio.open_connection("127.0.0.1", here.ollama.port)
        here.want(LONGER)
        await until(lambda: here.says("its new settings wait until nobody uses it"))
        assert here.process == before
        assert not here.status.HasField("applied"), "what runs is not what is written"
        writer.close()
        await writer.wait_closed()
        await until(lambda: here.status.applied == LONGER)
        assert here.process != before


async def test_a_clock_that_steps_is_no_reason_for_a_restart_and_none_against_it(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.want(SETTINGS)
        await until(lambda: here.status.applied == SETTINGS)
        before = here.process
        later = here.file.stat().st_mtime + 86_400  # as if it had been written, and then the clock set back
        os.utime(here.file, (later, later))
        await here.looks(5)
        assert (here.process, here.status.applied) == (before, SETTINGS)
        here.taken.write_text("OLLAMA_CONTEXT_LENGTH=4096\n")
        os.utime(here.file, (1, 1))
        await until(lambda: here.process not in (0, before))
        await until(lambda: here.status.applied == SETTINGS)


async def test_an_ollama_that_does_not_take_them_is_restarted_once_and_told(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        before = here.process
        here.systemd.units[UNIT].before_start = lambda: None
        here.want(SETTINGS)
        await until(lambda: here.says("it was restarted and did not take its settings"))
        after = here.process
        assert after not in (0, before)
        await here.looks(5)
        assert here.process == after
        assert not here.status.HasField("applied")


async def test_a_restart_that_is_not_permitted_is_said(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.systemd.units[UNIT].denied = "AccessDenied"
        before = here.process
        here.want(SETTINGS)
        await until(lambda: here.says("it could not be restarted to take its new settings: this user may not"))
        assert here.process == before


async def test_a_stopped_unit_is_left_stopped_and_takes_them_when_it_starts(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        await here.systemd._end(here.systemd.units[UNIT])
        here.systemd._note(here.systemd.units[UNIT], "inactive", "dead", MainPID=0)
        here.want(SETTINGS)
        await until(here.file.exists)
        await here.looks(5)
        assert here.process == 0


async def test_a_spec_without_settings_changes_none(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        before = here.process
        here.keeper.want(NodeSpec())
        await until(lambda: here.status.state == types.SERVICE_STATE_READY)
        await here.looks(5)
        assert here.process == before
        assert not here.file.exists()
