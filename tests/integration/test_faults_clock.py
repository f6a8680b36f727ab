"""Clocks a day off, made with libfaketime in one program: a sentence that names both clocks, and nothing lost."""

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from clusterai_agent.home import Home
from support.clocks import shifted
from support.killable import KillableDaemon, killable_daemon
from support.node_daemon import NodeDaemon, agent_toml
from support.tree import ROOT, python_path


def agent_config(directory: Path) -> Path:
    """Write an agent's configuration below the directory."""
    home = directory / "agent"
    for name in ("state", "compute", "dask"):
        (home / name).mkdir(parents=True)
    config = home / "agent.toml"
    config.write_text(
        f'[server]\ndiscover = false\n[node]\nname = "pi4"\n'
        f'[state]\ndirectory = "{home}/state"\ncompute_directory = "{home}/compute"\n'
        f'scratch_directory = "{home}/dask"\n[units]\nback_end = "process"\n'
    )
    return config


async def join(daemon: KillableDaemon, config: Path, variables: dict[str, str]) -> tuple[int, str]:
    """Join with a fresh token; return exit code and what was said."""
    token = config.with_name("token")
    token.write_text(str(await daemon.token()))
    arguments = ("join", "--server", await daemon.enrollment_address(), "--token-file", str(token))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "clusterai_agent", "--config", str(config), *arguments),
        cwd=ROOT,
        env={**python_path(), **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, said.decode()


@pytest.mark.parametrize("shift", ["+1d", "-1d"])
async def test_a_machine_whose_clock_is_a_day_off_is_told_so_and_does_not_join(tmp_path: Path, shift: str) -> None:
    config = agent_config(tmp_path)
    async with killable_daemon(tmp_path) as daemon:
        code, said = await join(daemon, config, shifted(shift))
        assert code == 1, said
        assert "clock" in said
        assert "Traceback" not in said
        assert not (config.parent / "state/node.pem").exists()
        assert (await join(daemon, config, {}))[0] == 0


@pytest.mark.parametrize("shift", ["+1d", "-1d"])
async def test_a_server_whose_clock_is_a_day_off_is_found_by_the_machine(tmp_path: Path, shift: str) -> None:
    config = agent_config(tmp_path)
    async with killable_daemon(tmp_path, environment=shifted(shift)) as daemon:
        code, said = await join(daemon, config, {})
        assert code == 1, said
        assert "clock" in said
        assert not (config.parent / "state/node.pem").exists()


async def test_a_joined_machine_whose_clock_went_back_a_day_says_so_and_comes_back(tmp_path: Path) -> None:
    config = agent_config(tmp_path)
    async with killable_daemon(tmp_path) as daemon:
        assert (await join(daemon, config, {}))[0] == 0
        assert "clock" in await said_by_agent(config, shifted("-1d"), "clock")
        assert "connected to" in await said_by_agent(config, {}, "connected to")


@pytest.mark.parametrize("shift", ["+10d", "-10d"])
async def test_a_certificate_of_the_server_that_the_clock_makes_useless_is_a_matter_of_clocks(
    tmp_path: Path, shift: str
) -> None:
    """The node's own certificate is good by any of these clocks: only the handshake fails, and does not say why."""
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"), lifetime=timedelta(days=4000))
        config = agent_toml(tmp_path, daemon.address)
        said = await said_by_agent(config, shifted(shift), "clock")
        assert f"by its certificates the clock of {daemon.address} says a time from" in said
        assert "timedatectl" in said
        assert daemon.streams == []
        assert "connected to" in await said_by_agent(config, {}, "connected to")


async def said_by_agent(config: Path, variables: dict[str, str], awaited: str) -> str:
    """Run the agent until it has said the awaited words, for a bounded time; return all that it said."""
    log = config.with_name("agent.log")
    log.write_text("")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "clusterai_agent", "--config", str(config), "run"),
            cwd=ROOT,
            env={**os.environ, **python_path(), **variables},
            stderr=output,
        )
    try:
        async with asyncio.timeout(90):
            while awaited not in log.read_text():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 90)
    return log.read_text()
