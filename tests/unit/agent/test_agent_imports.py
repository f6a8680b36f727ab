"""The steady state stays small: what `run` imports, in a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"click", "cryptography", "zeroconf", "dask", "distributed", "requests", "rich", "pynvml", "gi", "dbus_fast"}


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """The modules that a fresh interpreter holds when `run` is about to begin."""
    return modules_after("import clusterai_agent.__main__, clusterai_agent.run")


def modules_after(statements: str) -> list[str]:
    """The modules that a fresh interpreter holds after these."""
    code = f"import sys; {statements}; print(*sys.modules)"
    path = os.pathsep.join(str(ROOT / part) for part in ("common", "agent"))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )
    return done.stdout.split()


def test_run_imports_nothing_heavy(loaded: list[str]) -> None:
    assert "clusterai_agent.session" in loaded
    assert HEAVY & {name.partition(".")[0] for name in loaded} == set()


def test_what_watches_models_is_not_there_before_it_is_switched_on(loaded: list[str]) -> None:
    assert "clusterai_agent.models.switch" in loaded
    assert "clusterai_agent.models.keeper" not in loaded


def test_a_phone_connects_without_grpcio() -> None:
    opening = "import clusterai.channel as c; c.open_channel('h:1', c.Trust(b''))"
    loaded = modules_after(f"import clusterai_agent.run, clusterai_agent.joining; sys.platform = 'android'; {opening}")
    assert "h2" in loaded
    assert "grpc" not in loaded
