"""The steady state stays small: what `run` imports, in a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"click", "cryptography", "zeroconf", "dask", "distributed", "requests", "rich", "pynvml", "gi", "dbus_fast"}


def test_run_imports_nothing_heavy() -> None:
    code = "import sys, clusterai_agent.__main__, clusterai_agent.run; print(*sys.modules)"
    path = os.pathsep.join(str(ROOT / part) for part in ("common", "agent"))
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )
    assert HEAVY & {name.partition(".")[0] for name in loaded.stdout.split()} == set()
