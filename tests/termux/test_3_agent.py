"""The agent on a phone: it joins, reports what it can, works and rests by its battery, and always comes back."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusterai.policy import MachineClass, defaults
from clusterai.policy_wire import settings_to_wire
from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import EnvironmentSpec, PoolSpec, WorkerSpec
from clusterai_agent.home import Home
from support.ctl import Ctl
from support.killable import KillableDaemon, killable_daemon
from support.node_daemon import NodeDaemon
from support.phone_agent import agents, enable, install, join, status, until, workers
from support.termux import Phone

STATE = "var/lib/clusterai-agent"
MODULES = "lib/clusterai-compute"
HANGING = "hang"


@pytest.fixture
def installed(phone: Phone, debs: dict[str, Path]) -> Phone:
    """A phone with our packages, 85 % and a charger."""
    return install(phone, debs)


def running(phone: Phone, word: str) -> list[int]:
    """Return the processes of the phone whose command line has the word."""
    return [number for number, words in phone.processes().items() if any(word in part for part in words)]


class TestWithTheDaemon:
    @pytest.fixture
    async def daemon(self) -> AsyncIterator[KillableDaemon]:
        with tempfile.TemporaryDirectory() as directory:
            async with killable_daemon(Path(directory)) as running:
                yield running

    async def test_it_joins_and_is_a_phone_that_rests_until_its_battery_is_known(
        self, installed: Phone, daemon: KillableDaemon, tmp_path: Path
    ) -> None:
        admin = Ctl(tmp_path, daemon.socket)
        installed.without_termux_api()
        said = await joined(installed, daemon)
        assert "sv-enable clusterai-agent" in said
        await enable(installed)
        await until(lambda: status(installed).get("state") == "connected")
        shown = await admin("policy", "show", "pixel")
        assert "pixel is a phone, resting" in " ".join(shown.out.split())
        assert "the battery's charge is not known here" in " ".join(shown.out.split())
        text = installed.run("clusterai-agent", "status").stdout
        assert "no cpu: the kernel hides /proc/stat from this user" in text
        assert "no battery: Termux:API is not here: install its app, and `pkg install termux-api`" in text
        assert "Termux:Boot has not started it yet" in text
        facts = (await admin("node", "show", "pixel", "--json")).data["facts"]
        assert (facts["os_name"][:7], facts["has_battery"]) == ("Android", True)

    async def test_a_reboot_with_termux_boot_brings_it_back(self, installed: Phone, daemon: KillableDaemon) -> None:
        await joined(installed, daemon)
        await enable(installed)
        await until(lambda: status(installed).get("state") == "connected")
        installed.reboot()
        assert agents(installed) == []
        installed.boot_scripts()
        await until(lambda: status(installed).get("state") == "connected")
        assert "Termux:Boot" not in installed.run("clusterai-agent", "status").stdout
        assert "termux-wake-lock" in installed.at("var/phone/wake-locks").read_text()


class TestWithItsWorker:
    """A played daemon that wants one worker of the phone, with the environment that is installed there."""

    @pytest.fixture
    async def daemon(self, installed: Phone) -> AsyncIterator[NodeDaemon]:
        async with NodeDaemon.serving() as daemon:
            daemon.python_minor, daemon.interval = "3.14", 1.0
            daemon.lock_text = installed.at(f"{MODULES}/pool.lock").read_text()
            wants(daemon, workers=True, generation=1)
            home = installed.directory / "home"
            daemon.enrol(Home(home), "pixel", addresses=(daemon.address,))
            move(home, installed)
            yield daemon

    @pytest.fixture
    async def enabled(self, installed: Phone, daemon: NodeDaemon) -> Phone:
        await enable(installed)
        return installed

    async def test_it_computes_with_what_is_installed(self, enabled: Phone, daemon: NodeDaemon) -> None:
        await until(lambda: workers(enabled))
        await until(lambda: daemon.last.statuses[-1].environment.state == types.ENVIRONMENT_STATE_READY)
        assert daemon.last.statuses[-1].environment.versions["distributed"]
        assert daemon.last.hello.facts.machine_class == types.MACHINE_CLASS_PHONE
        assert len(workers(enabled)) == 1
        names = {words[0].rpartition("/")[2] for words in enabled.processes().values() if words}
        assert len(agents(enabled)) == 1, names

    async def test_whoever_is_killed_comes_back_and_there_is_one_worker(
        self, enabled: Phone, daemon: NodeDaemon
    ) -> None:
        await until(lambda: workers(enabled))
        [agent], [worker] = agents(enabled), workers(enabled)
        kill(worker)
        await until(lambda: workers(enabled) not in ([], [worker]))
        ending = workers(enabled)  # with its agent
        kill(agent)
        await until(lambda: agents(enabled) not in ([], [agent]) and workers(enabled) not in ([], ending))
        both = agents(enabled) + workers(enabled)
        kill(*both)
        await until(lambda: agents(enabled) and workers(enabled) and not {*both} & {*enabled.processes()})
        await asyncio.sleep(3)
        assert (len(agents(enabled)), len(workers(enabled))) == (1, 1)

    async def test_the_service_takes_the_worker_with_it(self, enabled: Phone, daemon: NodeDaemon) -> None:
        await until(lambda: workers(enabled))
        enabled.shell("sv-disable clusterai-agent")
        await until(lambda: not agents(enabled) and not workers(enabled))
        assert "the agent does not run" in enabled.run("clusterai-agent", "status").stderr

    async def test_unplugged_it_says_so_within_seconds_and_works_again_when_it_charges(
        self, enabled: Phone, daemon: NodeDaemon
    ) -> None:
        await until(lambda: workers(enabled))
        enabled.battery(plugged="UNPLUGGED", status="DISCHARGING", percentage=84)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: daemon.last.statuses[-1].policy.state == types.POLICY_STATE_RESTING)
        assert loop.time() - began < 10
        assert daemon.last.statuses[-1].policy.reason == "on battery, 84 %; works from 80 % while charging"
        daemon.last.send(spec=resting_spec(daemon))
        await until(lambda: not workers(enabled))

    async def test_unplugged_in_airplane_mode_it_stops_its_worker_itself(
        self, installed: Phone, daemon: NodeDaemon
    ) -> None:
        settings = replace(defaults(MachineClass.PHONE), drain_seconds=5)
        daemon.spec.policy.CopyFrom(settings_to_wire(settings))
        await enable(installed)
        await until(lambda: workers(installed))
        await daemon.stop()
        installed.battery(plugged="UNPLUGGED", status="DISCHARGING")
        await until(lambda: not workers(installed))
        assert status(installed)["policy"]["state"] == "resting"

    async def test_a_battery_program_that_hangs_is_killed_and_the_phone_rests(
        self, installed: Phone, daemon: NodeDaemon
    ) -> None:
        installed.battery(HANGING)
        await enable(installed)
        await until(lambda: status(installed).get("policy", {}).get("reason_code") == "battery-unknown")
        await until(lambda: not running(installed, "termux-battery-status"))
        await until(lambda: "no answer within 3 s" in status(installed).get("absent", {}).get("battery", ""))
        assert status(installed)["policy"]["state"] == "resting"
        assert workers(installed) == []

    async def test_a_server_that_is_elsewhere_is_found_where_the_owner_says(
        self, enabled: Phone, daemon: NodeDaemon
    ) -> None:
        await until(lambda: daemon.streams)
        daemon.server_addresses = ["127.0.0.1:1"]
        await daemon.stop()
        await until(lambda: status(enabled).get("state") == "unreachable")
        daemon.port, sessions = 0, len(daemon.streams)
        await daemon.start()
        enabled.write("etc/clusterai/agent.toml", f'[server]\naddresses = ["{daemon.address}"]\n')
        enabled.shell("sv restart clusterai-agent")
        await until(lambda: len(daemon.streams) > sessions and not daemon.last.closed)
        await until(lambda: status(enabled).get("state") == "connected")
        assert status(enabled)["server"] == daemon.address


async def joined(phone: Phone, daemon: KillableDaemon) -> str:
    """Join the daemon as `pixel`; return what was said."""
    address = await daemon.enrollment_address()
    return await join(phone, str(await daemon.token()), "--server", address, "--name", "pixel")


def wants(daemon: NodeDaemon, *, workers: bool, generation: int) -> None:
    """Let the daemon want a worker of the phone, or none."""
    environment = EnvironmentSpec(environment_hash=daemon.environment_hash, python_minor=daemon.python_minor)
    pool = PoolSpec(pool_name="mobile", scheduler_address="tls://127.0.0.1:9", environment=environment)
    listed = [WorkerSpec(worker_name="pixel-0", thread_count=1)] if workers else []
    daemon.spec = NodeSpec(generation=generation, pool=pool, workers=listed, build_environment=True)


def resting_spec(daemon: NodeDaemon) -> NodeSpec:
    """Return what the daemon wants of a phone whose work has left."""
    wants(daemon, workers=False, generation=daemon.spec.generation + 1)
    return daemon.spec


def move(home: Path, phone: Phone) -> None:
    """Bring an identity to the phone, where the app's user owns it."""
    place = phone.at(STATE)
    owner = place.stat()
    for file in home.iterdir():
        goal = place / file.name
        goal.write_bytes(file.read_bytes())
        goal.chmod(0o600)
        os.chown(goal, owner.st_uid, owner.st_gid)


def kill(*process_ids: int) -> None:
    for process_id in process_ids:
        os.kill(process_id, signal.SIGKILL)


