"""Our packages and the lab itself: built alike twice, found clean by lintian; a lab that is killed leaves nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import repository
from lab.lab import leftovers, remove_leftovers

PACKAGES = {"clusteraid", "clusteractl", "clusterai-agent", "python3-clusterai"}
BOOT_AND_HANG = """
import sys, time
sys.path.insert(0, sys.argv[1])
from lab.lab import Lab
with Lab({"lonely": "bookworm"}):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_packages_are_reproducible_and_lintian_finds_nothing(
    release: str, tmp_path_factory: pytest.TempPathFactory, built: dict[str, list[Path]]
) -> None:
    packages = repository.build(tmp_path_factory.mktemp("packages"), release=release, verify=True)
    assert {package.name.partition("_")[0] for package in packages} == PACKAGES
    assert all(package.name.endswith("_all.deb") for package in packages)
    built[release] = packages


def test_a_lab_that_is_killed_is_removed_by_the_next() -> None:
    command = [sys.executable, "-P", "-c", BOOT_AND_HANG, str(Path(__file__).resolve().parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        os.kill(run.pid, signal.SIGKILL)
    assert leftovers() != []
    remove_leftovers()
    assert leftovers() == []
    mounts = Path("/proc/self/mounts").read_text()
    assert "/lonely/root" not in mounts
    listed = [Path(entry, "cmdline") for entry in Path("/proc").glob("[0-9]*")]
    running = [line.read_bytes() for line in listed if line.exists()]
    assert not any(b"--machine=lonely" in command for command in running)
