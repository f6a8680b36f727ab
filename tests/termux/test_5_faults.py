"""What goes wrong around a phone that has joined: its clock, its network, its Python, what Android denies."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import EnvironmentSpec, PoolSpec, WorkerSpec
from clusterai_agent.home import Home
from support.air import SECOND, SERVER, THIRD, Air
from support.clocks import set_clock, with_own_clock
from support.ctl import Ctl
from support.killable import KillableDaemon, killable_daemon
from support.node_daemon import NodeDaemon
from support.phone_agent import LOG, UP_SECONDS, agents, enable, install, join, status, until, workers
from support.phone_image import MINORS
from support.termux import PREFIX, Phone


@pytest.fixture
async def daemon() -> AsyncIterator[KillableDaemon]:
    with tempfile.TemporaryDirectory() as directory:
        async with killable_daemon(Path(directory)) as running:
            yield running


class TestItsClock:
    @pytest.fixture
    def phone(self, tmp_path: Path, debs: dict[str, Path]) -> Iterator[Phone]:
        """A phone with our packages, and a clock of its own that is right."""
        with Phone.on(tmp_path, **with_own_clock()) as phone:
            set_clock(phone, "+0")
            yield install(phone, debs)

    async def test_years_off_it_does_not_join_and_says_which_clocks_differ(
        self, phone: Phone, daemon: KillableDaemon
    ) -> None:
        token, address = str(await daemon.token()), await daemon.enrollment_address()
        words = ("clusterai-agent", "join", "--server", address, "--token-file", "-")
        for shift in ("-1500d", "+1500d", "-3h"):
            set_clock(phone, shift)
            done = await asyncio.to_thread(phone.run, *words, given=f"{token}\n")
            assert done.returncode == 1, done.stderr
            assert "clock" in done.stderr
            assert "Android's settings" in done.stderr
            assert "Traceback" not in done.stderr
        set_clock(phone, "+0")
        await join(phone, token, "--server", address)  # no attempt used the token up

    @pytest.mark.parametrize("shift", ["-1500d", "+1500d"])
    async def test_years_off_a_running_agent_says_so_and_comes_back_by_itself_when_it_is_right(
        self, phone: Phone, daemon: KillableDaemon, shift: str
    ) -> None:
        await join(phone, str(await daemon.token()), "--server", await daemon.enrollment_address())
        set_clock(phone, shift)
        await enable(phone)
        await until(lambda: "this machine's clock says" in status(phone).get("reason", ""))
        shown = status(phone)
        assert "by its certificates the clock of 127.0.0.1:" in shown["reason"]
        assert "Set time automatically" in shown["hint"]
        log = phone.at(LOG).read_text()
        assert "this machine's clock says" in log
        assert "Traceback" not in log
        agent = shown["process_id"]
        set_clock(phone, "+0")
        await until(lambda: status(phone).get("state") == "connected")
        assert status(phone)["process_id"] == agent


class TestItsNetwork:
    """The phone hears no multicast, as Android filters it: what answers its questions has to answer to it alone."""

    @pytest.fixture
    def air(self) -> Iterator[Air]:
        with Air.on() as air:
            yield air

    @pytest.fixture
    def phone(self, air: Air, tmp_path: Path, debs: dict[str, Path]) -> Iterator[Phone]:
        with Phone.on(tmp_path, network=air.phone, **with_own_clock()) as phone:
            set_clock(phone, "+0")
            yield install(phone, debs)

    @pytest.fixture
    async def server(self, air: Air) -> AsyncIterator[KillableDaemon]:
        """A server with two addresses."""
        air.give(SECOND)
        with tempfile.TemporaryDirectory() as directory:
            daemon = KillableDaemon(
                Path(directory), settings="[session]\nphone_heartbeat_seconds = 2\n",
                wrapper=air.inside_server(), listen="0.0.0.0", announce=True,
            )  # fmt: skip
            await daemon.start()
            try:
                yield daemon
            finally:
                await daemon.stop()

    async def connected(self, phone: Phone, server: KillableDaemon) -> None:
        """Join, found by multicast alone, and run until connected."""
        await join(phone, str(await server.token()))
        await enable(phone)
        await until(lambda: status(phone).get("state") == "connected")

    async def test_the_server_is_found_again_where_it_was_remembered_and_where_it_is_only_announced(
        self, air: Air, phone: Phone, server: KillableDaemon
    ) -> None:
        await self.connected(phone, server)
        log = phone.at(LOG)
        first = status(phone)["server"].partition(":")[0]
        [other] = {SERVER, SECOND} - {first}
        air.take(first)
        phone.shell("sv restart clusterai-agent")
        await until(lambda: status(phone).get("server", "").startswith(other))
        assert "by multicast" not in log.read_text()
        air.give(THIRD)
        air.take(other)
        phone.shell("sv restart clusterai-agent")
        await until(lambda: status(phone).get("server", "").startswith(THIRD))
        assert f"found the server by multicast at {THIRD}:" in log.read_text()

    async def test_after_an_hour_of_airplane_mode_it_is_back_within_seconds(
        self, air: Air, phone: Phone, server: KillableDaemon, tmp_path: Path
    ) -> None:
        """The hour is played: the phone's wall clock jumps, as it does for whoever slept."""
        ctl = Ctl(tmp_path, server.socket)
        await self.connected(phone, server)
        agent = status(phone)["process_id"]
        air.airplane_mode(on=True)
        await until(lambda: status(phone).get("state") == "unreachable")
        async with asyncio.timeout(UP_SECONDS):
            while (await ctl("node", "list", "--json")).data["nodes"][0]["state"] != "offline":
                await asyncio.sleep(0.5)
        set_clock(phone, "+1h")
        await asyncio.sleep(5)
        assert not [words for words in phone.processes().values() if "clusterai_agent.discovery" in words]
        air.airplane_mode(on=False)
        await until(lambda: status(phone).get("state") == "connected", 30)
        assert status(phone)["process_id"] == agent
        assert (await ctl("node", "list", "--json")).data["nodes"][0]["state"] != "offline"
        log = phone.at(LOG).read_text()
        assert "Traceback" not in log


class TestItsPython:
    """Termux raises its Python by a minor under an agent that runs."""

    @pytest.fixture
    def phone(self, tmp_path: Path, debs: dict[str, Path]) -> Iterator[Phone]:
        with Phone.on(tmp_path, release="trixie") as phone:
            yield install(phone, debs)

    @pytest.fixture
    async def daemon(self, phone: Phone) -> AsyncIterator[NodeDaemon]:
        async with played_pool(phone, MINORS["trixie"]) as daemon:
            yield daemon

    async def test_the_agent_goes_on_with_the_new_one_and_computes_again_when_the_pool_has_it(
        self, phone: Phone, daemon: NodeDaemon
    ) -> None:
        await enable(phone)
        await until(lambda: workers(phone) and status(phone).get("environment", {}).get("state") == "ready")
        before = status(phone)["process_id"]
        done = await asyncio.to_thread(phone.upgrade_python, "forky")
        assert done.returncode == 0, done.stderr
        await until(lambda: status(phone).get("process_id") not in (None, before))
        await until(lambda: status(phone).get("environment", {}).get("state") == "incompatible")
        shown = status(phone)
        assert shown["environment"]["reason"] == "this phone's Python is 3.14, that of its pool is 3.13"
        assert "wait until the server's pool has this one" in shown["environment"]["hint"]
        assert shown["state"] == "connected"
        assert workers(phone) == []
        assert list(daemon.last.hello.facts.pythons) == ["3.14"]
        daemon.python_minor = "3.14"
        daemon.last.send(spec=wanted(daemon, generation=2))
        await until(lambda: workers(phone))
        assert "Traceback" not in phone.at(LOG).read_text()

    async def test_where_termux_has_not_built_its_modules_yet_the_service_says_so_and_waits(
        self, phone: Phone, daemon: NodeDaemon
    ) -> None:
        await enable(phone)
        await until(lambda: status(phone).get("state") == "connected")
        done = await asyncio.to_thread(phone.upgrade_python, "forky")
        phone.hide("/usr/lib/python3/dist-packages/psutil")
        assert done.returncode == 0, done.stderr
        phone.shell("sv restart clusterai-agent")
        said = "Python here is 3.14, and Termux's python-psutil is not installed for it"
        log = phone.at(LOG)
        await until(lambda: said in log.read_text())
        assert "pkg upgrade" in log.read_text()
        assert "Traceback" not in log.read_text()
        phone.show("/usr/lib/python3/dist-packages/psutil")
        await until(lambda: status(phone).get("state") == "connected")


class TestAtHome:
    """A phone that has joined a played daemon, which wants a worker of it."""

    @pytest.fixture
    def phone(self, phone: Phone, debs: dict[str, Path]) -> Phone:
        return install(phone, debs)

    @pytest.fixture
    async def daemon(self, phone: Phone) -> AsyncIterator[NodeDaemon]:
        async with played_pool(phone, MINORS["forky"]) as daemon:
            yield daemon

    async def test_with_full_storage_it_keeps_its_session_rests_and_comes_back(
        self, phone: Phone, daemon: NodeDaemon
    ) -> None:
        await enable(phone)
        await until(lambda: workers(phone))
        [agent] = agents(phone)
        phone.fill("var/lib/clusterai-agent", "var/lib/clusterai-compute", "var/run/clusterai")
        assert "No space" in phone.run("cp", "/bin/true", f"{PREFIX}/var/lib/clusterai-agent/x").stderr
        phone.battery(plugged="UNPLUGGED", status="DISCHARGING")
        await until(lambda: daemon.last.statuses[-1].policy.state == types.POLICY_STATE_RESTING)
        daemon.server_addresses = ["192.0.2.10:7443"]  # to be remembered
        await daemon.stop()
        await daemon.start()
        sessions = len(daemon.streams)
        await until(lambda: len(daemon.streams) > sessions)
        assert agents(phone) == [agent]
        phone.shell("sv restart clusterai-agent")
        await until(lambda: agents(phone) not in ([], [agent]))
        await until(lambda: len(daemon.streams) > sessions + 1 and not daemon.last.closed)
        assert daemon.last.hello.status.policy.state == types.POLICY_STATE_RESTING
        assert "Traceback" not in phone.at(LOG).read_text()

    async def test_killed_again_and_again_while_it_starts_it_ends_up_with_one_worker(
        self, phone: Phone, daemon: NodeDaemon
    ) -> None:
        phone.at("var/service/clusterai-agent/finish").write_text("#!/bin/sh\n")  # or each start waits ten seconds
        await enable(phone)
        for moment in (0.1, 0.3, 0.6, 1.0, 1.5, 2.2, 3.0):
            await until(lambda: agents(phone))
            await asyncio.sleep(moment)
            for number, words in phone.processes().items():
                if "python" in words[0] and "runsv" not in words[0]:
                    os.kill(number, signal.SIGKILL)
        await until(lambda: agents(phone) and workers(phone))
        await until(lambda: daemon.last.statuses[-1].environment.state == types.ENVIRONMENT_STATE_READY)
        await asyncio.sleep(3)
        assert (len(agents(phone)), len(workers(phone))) == (1, 1)

    async def test_nonsense_of_the_battery_makes_it_rest_and_is_reported(
        self, phone: Phone, daemon: NodeDaemon
    ) -> None:
        phone.battery('{"percentage": 850, "plugged": "PLUGGED_AC"}')
        await enable(phone)
        await until(lambda: status(phone).get("policy", {}).get("reason_code") == "battery-unknown")
        await until(lambda: any("percentage is 850" in report.reason for report in sample(daemon).collectors))
        phone.battery("Error: permission denied")
        phone.shell("sv restart clusterai-agent")
        await until(lambda: "not JSON" in status(phone).get("absent", {}).get("battery", ""))
        await until(lambda: status(phone).get("policy", {}).get("reason_code") == "battery-unknown")


class TestWithoutSemaphores:
    """Phones whose kernel denies sem_open: what Python's multiprocessing locks with."""

    @pytest.fixture
    def phone(self, tmp_path: Path, debs: dict[str, Path]) -> Iterator[Phone]:
        with Phone.on(tmp_path, semaphores=False) as phone:
            yield install(phone, debs)

    @pytest.fixture
    async def daemon(self, phone: Phone) -> AsyncIterator[NodeDaemon]:
        async with played_pool(phone, MINORS["forky"]) as daemon:
            yield daemon

    async def test_agent_and_worker_run(self, phone: Phone, daemon: NodeDaemon) -> None:
        assert "Error" in phone.run("python3", "-c", "import multiprocessing; multiprocessing.Lock()").stderr
        await enable(phone)
        await until(lambda: workers(phone) and status(phone).get("environment", {}).get("state") == "ready")
        assert daemon.last.statuses[-1].workers[0].state == types.WORKER_STATE_RUNNING

    async def test_a_worker_without_a_nanny_computes(self, phone: Phone) -> None:
        done = await asyncio.to_thread(phone.run, "python3", "-c", COMPUTES, f"{PREFIX}/lib/clusterai-compute")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == "4950"


# A scheduler, a worker as the agent starts it, and a client, all of them on the phone.
COMPUTES = """
import os, subprocess, sys, time
from pathlib import Path
os.environ["PYTHONPATH"] = sys.argv[1]
sys.path.insert(0, sys.argv[1])
from distributed import Client
told = Path(os.environ["TMPDIR"], "scheduler.json")
run = lambda name, *words: subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{name}", *words])
scheduler = run("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told))
worker = run("worker", "--scheduler-file", str(told), "--no-nanny", "--no-dashboard", "--nthreads", "1")
try:
    while not told.exists():
        time.sleep(0.1)
    with Client(scheduler_file=str(told), timeout=60) as client:
        print(client.submit(sum, range(100)).result(timeout=60))
finally:
    for process in (worker, scheduler):
        process.terminate()
        process.wait(60)
"""


@asynccontextmanager
async def played_pool(phone: Phone, minor: str) -> AsyncIterator[NodeDaemon]:
    """Yield a played daemon that wants a worker of the phone, which has joined it."""
    async with NodeDaemon.serving() as daemon:
        daemon.python_minor, daemon.interval = minor, 1.0
        daemon.lock_text = phone.at("lib/clusterai-compute/pool.lock").read_text()
        daemon.spec = wanted(daemon, generation=1)
        home = phone.directory / "home"
        daemon.enrol(Home(home), "pixel", addresses=(daemon.address,))
        for file in home.iterdir():
            phone.write(f"var/lib/clusterai-agent/{file.name}", file.read_text())
        yield daemon


def wanted(daemon: NodeDaemon, *, generation: int) -> NodeSpec:
    """Return a spec that wants a worker in the daemon's environment."""
    environment = EnvironmentSpec(environment_hash=daemon.environment_hash, python_minor=daemon.python_minor)
    pool = PoolSpec(pool_name="mobile", scheduler_address="tls://127.0.0.1:9", environment=environment)
    worker = WorkerSpec(worker_name="pixel-0", thread_count=1)
    return NodeSpec(generation=generation, pool=pool, workers=[worker], build_environment=True)


def sample(daemon: NodeDaemon) -> types.Sample:
    """Return the newest sample that the phone sent."""
    return daemon.last.heartbeats[-1].sample if daemon.streams and daemon.last.heartbeats else types.Sample()
