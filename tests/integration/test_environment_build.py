"""Building a compute environment with the real venv and the real pip, from wheels made on the spot."""

import asyncio
import contextlib
import http.server
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clusterai.environment import Built, EnvironmentBuildFailed, IndexConfig, build, find_python, read_complete
from clusterai.pip_output import DiskFull, HashMismatch, IndexUnreachable, NoWheel, VenvMissing
from support.tree import python_path
from support.waiting import until
from support.wheels import WheelDirectory, make_wheels

Steps = list[tuple[float, str]]


@pytest.fixture
def wheels(tmp_path: Path) -> WheelDirectory:
    return make_wheels(tmp_path / "wheels")


@pytest.fixture
def python() -> Path:
    found = find_python(f"3.{sys.version_info.minor}")
    assert found is not None
    return found


async def make(directory: Path, lock_text: str, python: Path, index: IndexConfig, steps: Steps | None = None) -> Built:
    heard: Steps = [] if steps is None else steps
    return await build(directory, lock_text, python, index=index, progress=lambda *step: heard.append(step))


def offline(wheels: WheelDirectory) -> IndexConfig:
    return IndexConfig(find_links=wheels.path, offline=True)


async def test_a_wheel_directory_is_enough(tmp_path: Path, wheels: WheelDirectory, python: Path) -> None:
    """Whatever the umask, the workers' user reads what the agent's user built: the directory gives it the group."""
    steps: Steps = []
    before = os.umask(0o077)
    try:
        built = await make(tmp_path / "env", wheels.lock_text, python, offline(wheels), steps)
    finally:
        os.umask(before)
    assert built.versions["dask"] == built.versions["distributed"] == "1.0"
    assert built.versions["python"].startswith(f"3.{sys.version_info.minor}.")
    assert read_complete(tmp_path / "env") == built.versions
    ratios = [ratio for ratio, _ in steps]
    assert ratios == sorted(ratios)
    assert ratios[-1] == 1.0
    assert "collected 7 of 7" in [text for _, text in steps]
    assert [path.name for path in (tmp_path / "env").glob(".*")] == [".complete"]
    assert_readable_by_the_group(tmp_path / "env")
    assert f"from {tmp_path}/env/lib/" in await output_of(tmp_path / "env/bin/pip", "--version")


def assert_readable_by_the_group(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o040, path
            assert not mode & 0o022, path


async def output_of(*command: str | Path) -> str:
    program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await program.communicate()
    return said.decode()


async def test_an_altered_wheel_is_refused_and_nothing_remains(
    tmp_path: Path, wheels: WheelDirectory, python: Path
) -> None:
    lock_text = re.sub(r"(numpy==1.0 \\\n\s+--hash=sha256:)\w{8}", r"\g<1>00000000", wheels.lock_text)
    with pytest.raises(HashMismatch) as caught:
        await make(tmp_path / "env", lock_text, python, offline(wheels))
    assert "numpy==1.0" in str(caught.value)
    assert not (tmp_path / "env").exists()


async def test_a_dead_index_is_named_as_the_cause(
    tmp_path: Path, wheels: WheelDirectory, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")  # the user's own wish would hide the cause
    with pytest.raises(IndexUnreachable) as caught:
        await make(tmp_path / "env", wheels.lock_text, python, IndexConfig("http://127.0.0.1:9/simple"))
    assert "connection refused" in str(caught.value)
    assert "wheel_directory" in caught.value.advice
    assert not (tmp_path / "env").exists()


async def test_a_wheel_for_another_platform_only_is_named(tmp_path: Path, python: Path) -> None:
    foreign = make_wheels(tmp_path / "foreign", platform="win_arm64")
    with pytest.raises(NoWheel) as caught:
        await make(tmp_path / "env", foreign.lock_text, python, offline(foreign))
    assert "==1.0 for this Python and platform" in str(caught.value)


async def test_packages_that_do_not_import_are_no_environment(tmp_path: Path, python: Path) -> None:
    broken = make_wheels(tmp_path / "broken", broken="msgpack")
    with pytest.raises(EnvironmentBuildFailed, match="broken on purpose"):
        await make(tmp_path / "env", broken.lock_text, python, offline(broken))
    assert not (tmp_path / "env").exists()


async def test_a_python_without_ensurepip_names_the_package(tmp_path: Path, python: Path) -> None:
    bare = tmp_path / "python3.11"
    bare.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *"-m venv"*) echo "ensurepip is not available"; exit 1;; esac\nexec {python} "$@"\n'
    )
    bare.chmod(0o755)
    with pytest.raises(VenvMissing) as caught:
        await make(tmp_path / "env", "", bare, IndexConfig())
    assert caught.value.advice == "apt install python3.11-venv"


async def test_a_full_disk_is_named_and_left_as_it_was(tmp_path: Path, wheels: WheelDirectory, python: Path) -> None:
    """/dev/full gives ENOSPC to every write, as a full disk does: what makes the environment is made to write there."""
    program = tmp_path / "python3.11"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *"-I -S -c"*) exec {python} "$@";; esac\n'
        f"exec {python} -c \"print('x', file=open('/dev/full', 'w'), flush=True)\"\n"
    )
    program.chmod(0o755)
    with pytest.raises(DiskFull) as caught:
        await make(tmp_path / "env", wheels.lock_text, program, offline(wheels))
    assert f"df -h {tmp_path}" in caught.value.advice
    assert not (tmp_path / "env").exists()


async def test_a_cancelled_build_leaves_nothing(tmp_path: Path, wheels: WheelDirectory, python: Path) -> None:
    steps: Steps = []
    work = asyncio.create_task(make(tmp_path / "env", wheels.lock_text, python, offline(wheels), steps))
    await until(lambda: any("collected" in text for _, text in steps), 60)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not (tmp_path / "env").exists()


PROGRAM = """
import asyncio, sys
from pathlib import Path
from clusterai.environment import IndexConfig, build
asyncio.run(build(Path(sys.argv[1]), Path(sys.argv[2]).read_text(), Path(sys.argv[3]),
    index=IndexConfig(find_links=Path(sys.argv[4]), offline=True), progress=lambda *step: print(*step, flush=True)))
"""


@pytest.mark.parametrize("when", ["making the virtual environment", "collected 3 of 7", "checking that it imports"])
async def test_a_build_killed_half_way_takes_pip_along_and_the_next_one_starts_clean(
    tmp_path: Path, wheels: WheelDirectory, python: Path, when: str
) -> None:
    lock_file = tmp_path / "pool.lock"
    lock_file.write_text(wheels.lock_text)
    arguments = [str(path) for path in (tmp_path / "env", lock_file, python, wheels.path)]
    builder = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE, env=python_path()
    )
    assert builder.stdout is not None
    async with asyncio.timeout(60):
        while when not in (await builder.stdout.readline()).decode():
            pass
    builder.send_signal(signal.SIGKILL)
    await builder.communicate()
    assert read_complete(tmp_path / "env") is None
    await until(lambda: not list(users_of(tmp_path / "env")), 60)
    built = await make(tmp_path / "env", wheels.lock_text, python, offline(wheels))
    assert built.versions["lz4"] == "1.0"


def users_of(directory: Path) -> Iterator[int]:
    """The processes whose command line names the directory."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in path.read_bytes():
                yield int(path.parent.name)


@pytest.fixture
def index(wheels: WheelDirectory) -> Iterator[str]:
    """A package index on the loopback, as a network without internet has one."""
    root = wheels.path.with_name("index")
    for wheel in wheels.path.iterdir():
        page = root / wheel.name.partition("-")[0]
        page.mkdir(parents=True)
        (page / wheel.name).write_bytes(wheel.read_bytes())
        (page / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
            """Keep the test's output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


async def test_an_index_of_the_house_is_used(tmp_path: Path, wheels: WheelDirectory, python: Path, index: str) -> None:
    built = await make(tmp_path / "env", wheels.lock_text, python, IndexConfig(index))
    assert built.versions["bokeh"] == "1.0"
