"""Who may import whom, in the source and in a running interpreter."""

import json
import subprocess
import sys

import pytest

from support.tree import ROOT, python_path, run_tool

DASK = {"dask", "distributed"}

# What a module may not bring in, directly or through others.
ABSENT = {
    "clusterai_agent.__main__": DASK
    | {"cryptography", "zeroconf", "click", "requests", "rich", "sqlite3", "clusteraid"},
    "clusteractl.__main__": DASK | {"clusteraid", "clusterai_agent", "sqlite3", "dbus_fast", "zeroconf", "psutil"},
    "clusteraid.__main__": {"asyncio", "ssl", "_ssl", "_hashlib", "grpc"},  # it sets OpenSSL up before they load it
    "clusteraid.command": DASK | {"clusteractl", "clusterai_agent", "click", "requests"},
    "clusterai.launch": {"clusteraid", "clusteractl", "clusterai_agent", "grpc", "google", "cryptography", "psutil"},
    "clusterai.rpc": DASK | {"cryptography", "psutil", "click"},
    "clusterai.keytool": {"grpc", "google", "psutil"},
}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter holds after a statement."""
    program = f"{statement}\nimport json, sys; print(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=python_path()
    )
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_the_import_contracts_are_kept() -> None:
    run_tool("lint-imports", "--no-cache")


@pytest.mark.parametrize("module", ABSENT)
def test_a_fresh_interpreter_holds_nothing_that_does_not_belong(module: str) -> None:
    assert loaded_by(f"import {module}") & ABSENT[module] == set()


def test_the_root_is_no_place_to_import_from() -> None:
    """Folders named agent, systemd and proto are there; none of them may become a package by accident."""
    assert loaded_by("import clusterai") & {"agent", "daemon", "common", "proto", "systemd"} == set()
