"""The newest releases of every library we use: our code and the stubs of the oldest compiler run on them too."""

import os
import subprocess
from pathlib import Path

import pytest

from support.tree import ROOT

PYTHON = "/usr/bin/python3"
ENVIRONMENT = ROOT / ".venv-newest"
LIBRARIES = (
    "grpcio", "h2", "protobuf", "cryptography", "zeroconf", "dbus-fast", "click", "rich", "psutil", "sdnotify", "segno",
)  # fmt: skip
FOR_TESTS = ("pyyaml",)
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "hypothesis")
PINS = ROOT / "tests/requirements.txt"
# Of the units: not what only decides. Of integration: what meets gRPC, TLS and the store. Dask has an environment of
# its own, whatever runs the daemon; what nginx with Lua, stunnel, Ollama, apt and pip do is the same with any library.
# PyPI's gRPC has a TLS of its own, which takes no settings of OpenSSL: test_handshakes is of the distribution's.
TESTS = ("tests/unit", "tests/contract", "tests/integration")
LEFT_OUT = (
    "tests/unit/support", "tests/unit/gateway", "tests/unit/agent/test_policy_*", "tests/contract/test_fake_ollama*",
    *(
        f"tests/unit/daemon/test_{name}"
        for name in ("models_*", "registry*", "drain*", "resting*", "gateway_data*", "gateway_routes*")
    ),
    *(
        f"tests/integration/test_{name}"
        for name in (
            "dask_*", "two_pools*", "policy_*", "census*", "digest*", "local*", "faults_*", "enrollment_approval*",
            "handshakes*", "clusteractl_dask*", "gate*", "*_models*", "*_placement*",
            "mirror_pull*", "ollama_*", "repository_*", "webui_*", "environment_*",
        )
    ),
)  # fmt: skip


def run(*command: str | Path, seconds: int) -> str:
    """Run a command in the root; return what it printed, or fail with it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
        env=environment,
    )
    assert ended.returncode == 0, ended.stdout[-20_000:]
    return ended.stdout


def install_newest() -> None:
    """Install the newest releases into an environment that sees nothing of the distribution's, the tools as pinned."""
    if not (ENVIRONMENT / "bin/python").exists():
        run(PYTHON, "-m", "venv", ENVIRONMENT, seconds=120)
    pip: list[str | Path] = [ENVIRONMENT / "bin/python", "-m", "pip", "install", "-q", "--upgrade"]
    run(*pip, "--constraint", PINS, *TOOLS, seconds=300)
    run(*pip, *LIBRARIES, *FOR_TESTS, seconds=300)


@pytest.mark.timeout(2400)
def test_unit_and_integration_pass_on_the_newest_releases() -> None:
    install_newest()
    ignored = [f"--ignore-glob={pattern}" for pattern in LEFT_OUT]
    tests = [path for path in TESTS if any((ROOT / path).rglob("test_*.py"))]
    options = ("-q", "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")  # mostly they wait
    printed = run(ENVIRONMENT / "bin/python", "-P", "-m", "pytest", *options, *ignored, *tests, seconds=1800)
    assert " passed" in printed.splitlines()[-1]
    print(printed.splitlines()[-1])
