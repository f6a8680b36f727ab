"""Whether a phone starts by itself: the script for Termux:Boot, and what can be known of it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from clusterai_agent.phone_boot import Boot, try_write


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """A prefix with a home beside it, and programs that note what they do."""
    prefix, state = tmp_path / "usr", tmp_path / "usr/var/lib/clusterai-agent"
    for directory in (prefix / "bin", prefix / "etc/profile.d", state, tmp_path / "home"):
        directory.mkdir(parents=True)
    (prefix / "bin/sh").symlink_to("/bin/sh")
    (prefix / "bin/termux-wake-lock").write_text(f"#!/bin/sh\necho lock >> {tmp_path}/done\n")
    (prefix / "bin/termux-wake-lock").chmod(0o755)
    (prefix / "etc/profile.d/start-services.sh").write_text(f"echo services >> {tmp_path}/done\n")
    return Boot(prefix, state)


def run(boot: Boot) -> None:
    subprocess.run([boot.script], env={"PATH": f"{boot.prefix}/bin:/usr/bin:/bin"}, check=True)


def test_the_script_takes_the_wake_lock_and_starts_the_services(boot: Boot, tmp_path: Path) -> None:
    assert "Termux:Boot" in boot.write()
    run(boot)
    assert (tmp_path / "done").read_text().split() == ["lock", "services"]
    boot.write()
    assert boot.script.stat().st_mode & 0o777 == 0o700


def test_what_is_known_of_the_start_after_a_reboot_is_said(boot: Boot) -> None:
    assert "clusterai-agent join` writes it" in boot.known(1e6)
    boot.write()
    assert "Termux:Boot has not started it yet" in boot.known(1e6)
    run(boot)
    assert boot.known(3600.0) == ""
    long_ago = time.time() - 86400
    os.utime(boot.state / "booted", (long_ago, long_ago))
    assert "did not start it at the last boot" in boot.known(3600.0)


def test_leaving_takes_the_script_away_but_never_another_s(boot: Boot) -> None:
    boot.write()
    boot.remove()
    assert not boot.script.exists()
    boot.script.write_text("#!/bin/sh\n# my own\n")
    boot.remove()
    assert boot.script.exists()


def test_a_home_that_is_not_there_costs_nobody_the_join(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "home").rmdir()
    assert "home is not there" in try_write(boot)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.termux").write_text("a file")
    assert "No script for Termux:Boot was written: cannot write" in try_write(boot)
