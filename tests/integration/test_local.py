"""`clusteraid local`: a real daemon, agent, scheduler and workers as children of one process; nothing left after."""

import asyncio
import contextlib
import os
import platform
import signal
import sys
import time
from pathlib import Path

import pytest

from clusterai.environment import read_complete
from clusterai.ids import suggest_node_id
from support.local_cluster import UP_SECONDS, ended, local, prepared_state, processes_of
from support.tree import ROOT, python_path
from support.waiting import until

SUM = "from dask.distributed import Client; print('sum', Client().submit(sum, [1, 2]).result())"
DOWN_SECONDS = 45


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    return await prepared_state(tmp_path)


async def line_with(stream: asyncio.StreamReader | None, text: str) -> str:
    assert stream is not None
    async with asyncio.timeout(UP_SECONDS):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"it never said {text!r}")


async def nothing_left(state: Path) -> None:
    await until(lambda: not list(processes_of(state)), DOWN_SECONDS)


async def control_output(socket: str, *words: str) -> str:
    command = (sys.executable, "-P", "-m", "clusteractl", "--socket", socket, *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=python_path())
    said, _ = await process.communicate()
    return said.decode()


async def test_a_command_runs_with_a_client_that_connects_and_its_exit_code_is_kept(state: Path) -> None:
    async with local(state, "--", "python", "-c", f"{SUM}; import sys; sys.exit(7)") as process:
        code, out, err = await ended(process)
        assert code == 7, err
        assert "sum 3" in out
        assert not list(processes_of(state))
    started = time.monotonic()
    async with local(state, "--workers", "2", "--", "python", "-c", SUM) as process:
        code, out, err = await ended(process)
        assert code == 0, err
        assert "2 workers" in err
    assert time.monotonic() - started < 60  # nothing is built twice


async def test_in_the_foreground_it_says_how_to_connect_and_ctrl_c_ends_all_of_it(state: Path) -> None:
    async with local(state) as process:
        python = await line_with(process.stdout, "Python")
        assert f". {state}/dask.env" in python
        control = await line_with(process.stdout, "clusteractl --socket")
        await line_with(process.stdout, "Ctrl-C ends it")
        used = await asyncio.create_subprocess_exec(
            "sh", "-c", f'. {state}/dask.env; python -c "{SUM}"', stdout=asyncio.subprocess.PIPE
        )
        said, _ = await used.communicate()
        assert said == b"sum 3\n"
        socket = control.split("--socket ")[1].split()[0]
        node = suggest_node_id(platform.node())
        assert "ready" in await control_output(socket, "node", "list")
        assert "ready" in await control_output(socket, "logs")
        assert "connected" in await control_output(socket, "logs", "--node", node)
        process.send_signal(signal.SIGINT)
        code, _, err = await ended(process, DOWN_SECONDS)
        assert code == 130, err
        assert not list(processes_of(state))


async def test_the_agent_waits_for_a_daemon_that_is_slow_to_start(state: Path, tmp_path: Path) -> None:
    slow = "import sys, time\ntime.sleep(3 * (sys.orig_argv[-3:-1] == ['clusteraid', '--config']))\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    async with local(state, "--", "true", modules=str(tmp_path)) as process:
        code, _, err = await ended(process)
        assert code == 0, err


async def test_a_second_one_in_the_same_directory_is_refused(state: Path) -> None:
    async with local(state) as first:
        await line_with(first.stdout, "Ctrl-C")
        async with asyncio.timeout(90):
            second = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "clusteraid", "local", "--state", str(state),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=python_path(),
            )  # fmt: skip
            _, err = await second.communicate()
        assert second.returncode == 1
        assert f"a local cluster already runs in {state} (process {first.pid})" in err.decode()
        first.send_signal(signal.SIGTERM)
        await ended(first, DOWN_SECONDS)


@pytest.mark.parametrize("victim", ["clusteraid local", "clusteraid --config", "clusterai_agent"])
async def test_nothing_survives_a_kill(state: Path, victim: str) -> None:
    async with local(state) as process:
        await line_with(process.stdout, "Ctrl-C")
        (target,) = [number for number in processes_of(state) if victim in command_line(number)]
        os.kill(target, signal.SIGKILL)
        code, _, err = await ended(process, DOWN_SECONDS)
        await nothing_left(state)
        if target != process.pid:
            assert code == 1
            assert "ended (signal 9)" in err
            assert f"{state}/logs/" in err


def command_line(process_id: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process_id}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


async def test_a_command_that_ignores_ctrl_c_is_ended_too(state: Path) -> None:
    stubborn = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; print('deaf', flush=True)"
    async with local(state, "--", "python", "-c", f"{stubborn}; time.sleep(600)") as process:
        await line_with(process.stdout, "deaf")
        process.send_signal(signal.SIGINT)
        code, _, err = await ended(process, DOWN_SECONDS)
        assert code == 130, err
        assert not list(processes_of(state))


async def test_what_a_command_leaves_in_the_background_is_ended(state: Path) -> None:
    async with local(state, "--", "sh", "-c", "setsid sleep 600 & echo left") as process:
        code, out, err = await ended(process)
        assert (code, out) == (0, "left\n"), err
        assert not list(processes_of(state))


async def test_a_command_that_does_not_exist_is_a_sentence(state: Path) -> None:
    async with local(state, "--", "no-such-program") as process:
        code, _, err = await ended(process)
    assert code == 2, err
    assert "cannot run no-such-program: no such program" in err


async def test_a_build_that_fails_ends_it_with_the_reason(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    state = tmp_path / "state"
    async with local(state, "--wheels", str(wheels)) as process:
        code, _, err = await ended(process)
    assert code == 1, err
    assert "there is no wheel of bokeh" in err
    assert not any(read_complete(path) for path in (state / "compute/env").glob("*"))


async def test_the_program_names_its_options(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "clusteraid", "local", "--help",
        stdout=asyncio.subprocess.PIPE, env=python_path(), cwd=ROOT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert all(option in out.decode() for option in ("--state", "--workers", "-- COMMAND"))
