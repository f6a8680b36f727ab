"""Launch files: what is accepted, what is refused and how, and the command that comes of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterai.launch import BadLaunch, SchedulerLaunch, WorkerLaunch, load, main

PEM, CA, PRELOAD = Path("/c/dask.pem"), Path("/c/ca.pem"), Path("/p/dask_preload.py")
WORKER = WorkerLaunch(
    "n-0", Path("/e"), "tls://[::1]:8786", 4, 1 << 30, {"GPU": 1.0}, "GPU-1a2b", PEM, CA, Path("/s"), "192.0.2.7",
    PRELOAD,
)
SCHEDULER = SchedulerLaunch("main", Path("/e"), "", 8786, "127.0.0.1:8787", PEM, CA, Path("/run/x/main.sock"), PRELOAD)


@pytest.mark.parametrize("launch", [WORKER, SCHEDULER])
def test_a_launch_file_says_what_was_written(launch: WorkerLaunch | SchedulerLaunch) -> None:
    assert type(launch).parse(launch.to_json()) == launch
    assert launch.to_json() == type(launch).parse(launch.to_json()).to_json()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../x"}, "name: not a worker's name"),
        ({"name": "A" * 9}, "name: not a worker's name"),
        ({"scheduler_address": "tcp://127.0.0.1:8786"}, "scheduler_address: must be tls://HOST:PORT"),
        ({"scheduler_address": "tls://:8786"}, "scheduler_address: must be tls://HOST:PORT"),
        ({"scheduler_address": "tls://h:8786 --preload=/tmp/x"}, "scheduler_address"),
        ({"scheduler_address": "tls://user@h:1"}, "scheduler_address"),
        ({"contact_address": "--help"}, "contact_address: not a host"),
        ({"thread_count": 0}, "thread_count: must be 1 to 4096"),
        ({"thread_count": True}, "thread_count: must be int, not bool"),
        ({"memory_limit_bytes": 1}, "memory_limit_bytes"),
        ({"resources": {"GPU": "1"}}, "resources: amounts must be numbers"),
        ({"resources": {"a b": 1}}, "resources: 'a b' is not a name"),
        ({"resources": {"GPU": float("inf")}}, "resources"),
        ({"cuda_visible_devices": "0;rm"}, "cuda_visible_devices"),
        ({"environment": "env"}, "environment: env must be an absolute path"),
        ({"environment": "/e/../x"}, "environment"),
        ({"environment": ""}, "environment: must be"),
        ({"name": "a\x00b"}, "name: holds characters"),
        ({"shell": "x"}, "shell: unknown field"),
    ],
)
def test_a_bad_worker_is_refused_by_field_and_reason(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadLaunch) as refused:
        WorkerLaunch.parse(json.dumps(json.loads(WORKER.to_json()) | change))
    assert says in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"name": "n-0"}', b"\xff"])
def test_what_is_no_launch_file_is_refused(text: str | bytes) -> None:
    with pytest.raises(BadLaunch):
        WorkerLaunch.parse(text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"port": 65536}, "port"),
        ({"host": "a b"}, "host"),
        ({"dashboard_address": "8787"}, "dashboard_address"),
        ({"control_socket": "/" + "x" * 120}, "control_socket: longer than the 107 bytes"),
    ],
)
def test_a_bad_scheduler_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadLaunch, match=says):
        SchedulerLaunch.parse(json.dumps(json.loads(SCHEDULER.to_json()) | change))


def test_the_commands_ask_for_tls_and_nothing_else() -> None:
    worker, scheduler = " ".join(WORKER.command()), " ".join(SCHEDULER.command())
    for command in (worker, scheduler):
        assert "--protocol tls" in command
        assert f"--tls-cert {PEM} --tls-key {PEM} --tls-ca-file {CA} --preload {PRELOAD}" in command
    assert worker.startswith("/e/bin/python -I -u -m distributed.cli.dask_worker tls://[::1]:8786 --name n-0 ")
    assert " --no-nanny " in worker
    assert "--no-dashboard --dashboard-address 127.0.0.1:0" in worker  # its health and metrics are not the network's
    assert "--host 192.0.2.7 --resources GPU=1.0" in worker
    assert "--host tls:// --port 8786" in scheduler
    assert "--dashboard-prefix dask " in scheduler
    assert "--preload /p/dask_preload_versions.py --preload /p/dask_preload_scheduler.py" in scheduler
    assert SCHEDULER.variables()["CLUSTERAI_POOL"] == "main"
    assert "--host [::1]" in " ".join(replace(WORKER, contact_address="::1").command())
    assert WORKER.variables()["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "True"
    assert WORKER.variables()["CUDA_VISIBLE_DEVICES"] == "GPU-1a2b"


def test_what_the_file_names_must_be_there(tmp_path: Path) -> None:
    spec = tmp_path / "n-0.json"
    spec.write_text(WORKER.to_json())
    with pytest.raises(BadLaunch, match=r"n-0\.json: environment: /e/bin/python is not there"):
        load("worker", spec)


def test_the_program_ends_with_a_sentence_and_the_code_of_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert main(["--kind", "worker", str(tmp_path / "x.json")]) == 2
    assert main(["--kind", "worker", str(tmp_path / "none.json")]) == 1
    said = capsys.readouterr().err
    assert "x.json: ca: is missing\n  the agent or the daemon writes this file" in said
    assert "none.json: No such file" in said
    assert "Traceback" not in said


def test_it_becomes_the_environments_python_without_our_path(tmp_path: Path) -> None:
    python = tmp_path / "env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$$ $PYTHONPATH|$OMP_NUM_THREADS|$CUDA_VISIBLE_DEVICES|$2"\n')
    python.chmod(0o755)
    there = tmp_path / "there"
    there.touch()
    launch = replace(
        WORKER, environment=tmp_path / "env", certificate=there, ca=there, preload=there, scratch=tmp_path / "scratch"
    )
    (tmp_path / "n-0.json").write_text(launch.to_json())
    common = str(Path(__file__).parents[3] / "common")
    command = [sys.executable, "-P", "-m", "clusterai.launch", "--kind", "worker", str(tmp_path / "n-0.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": common}) as process:
        said = process.communicate(timeout=20)[0].decode()
    assert said == f"{process.pid} |1|GPU-1a2b|-u\n"
    assert (tmp_path / "scratch").is_dir()
