"""The packages on a phone: off until switched on, upgrades, other Pythons, and no trace at the end."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.termux import DPKG_OPTIONS, HOME, PREFIX, Phone

STATE = "var/lib/clusterai-agent"
SERVICE = "var/service/clusterai-agent"


@pytest.fixture
def phone(phone: Phone, debs: dict[str, Path]) -> Phone:
    """A phone with the packages installed."""
    done = phone.install(*debs.values())
    assert done.returncode == 0, done.stderr
    return phone


def status(phone: Phone) -> str:
    """Return how the service is, once its supervisor has found it."""
    patience = "n=0; until sv status clusterai-agent || [ $n = 30 ]; do sleep 0.5; n=$((n + 1)); done"
    return phone.shell(f"({patience}) >/dev/null; sv status clusterai-agent").stdout


def agents(phone: Phone) -> list[int]:
    """Return the process ids of the phone's agents."""
    return [pid for pid, words in phone.processes().items() if "run" in words and "python3" in words[0]]


def dpkg_deb(option: str, deb: Path, *words: str) -> list[str]:
    """Return the lines that dpkg-deb tells of a package."""
    command = ["dpkg-deb", option, str(deb), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()


def stand_in(phone: Phone) -> None:
    """Put a program in the agent's place that runs until it is ended: this phone has no cluster."""
    script = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit())\ntime.sleep(1000)\n"
    phone.write("lib/clusterai-agent/__main__.py", script)


def wait(condition: Callable[[], object], phone: Phone) -> None:
    """Wait for something on the phone; fail with what its services are."""
    for _ in range(100):
        if condition():
            return
        phone.run("sleep", "0.2")
    raise AssertionError(status(phone))


def test_it_is_off_until_it_is_switched_on_and_on_after_a_reboot(phone: Phone) -> None:
    stand_in(phone)
    assert status(phone).startswith("down: clusterai-agent:")
    assert agents(phone) == []
    assert phone.shell("sv-enable clusterai-agent").returncode == 0
    wait(lambda: agents(phone), phone)
    phone.reboot()
    assert status(phone).startswith("run: clusterai-agent:")
    assert phone.shell("sv-disable clusterai-agent").returncode == 0
    wait(lambda: not agents(phone), phone)
    phone.reboot()
    assert status(phone).startswith("down: clusterai-agent:")


def test_what_it_says_is_in_the_log_that_termux_keeps(phone: Phone) -> None:
    phone.write("lib/clusterai-agent/__main__.py", "import sys\nsys.exit('it says this')\n")
    phone.shell("sleep 6; sv-enable clusterai-agent")
    log = phone.at("var/log/sv/clusterai-agent/current")
    wait(lambda: log.exists() and "it says this" in log.read_text(), phone)
    assert len(log.read_text().splitlines()) == 1, "an agent that cannot run waits before it tries again"


def test_an_upgrade_keeps_state_and_settings_and_restarts_what_runs(phone: Phone, newer: dict[str, Path]) -> None:
    stand_in(phone)
    phone.write(f"{STATE}/state.json", "{}")
    settings = phone.at("etc/clusterai/agent.toml")
    settings.write_text('[node]\nname = "pixel"\n')
    status(phone)
    phone.shell("sv-enable clusterai-agent")
    wait(lambda: agents(phone), phone)
    before = agents(phone)
    done = phone.install(*newer.values())
    assert done.returncode == 0, done.stderr
    assert phone.version("clusterai-agent") == "99.0"
    wait(lambda: agents(phone) != before, phone)
    assert phone.at(f"{STATE}/state.json").read_text() == "{}"
    assert settings.read_text() == '[node]\nname = "pixel"\n'
    assert not phone.at(f"{SERVICE}/down").exists(), "it stays switched on"


def test_an_upgrade_leaves_off_what_is_off(phone: Phone, newer: dict[str, Path]) -> None:
    assert status(phone).startswith("down: clusterai-agent:")
    assert phone.install(*newer.values()).returncode == 0
    assert status(phone).startswith("down: clusterai-agent:")
    assert phone.at(f"{SERVICE}/down").exists()


def test_a_purge_ends_it_and_leaves_nothing(phone: Phone) -> None:
    stand_in(phone)
    status(phone)
    phone.shell("sv-enable clusterai-agent")
    wait(lambda: agents(phone), phone)
    for path in ("etc/apt/sources.list.d/clusterai.sources", "etc/apt/keyrings/clusterai.asc",
                 "etc/apt/clusterai-ca.pem", "etc/apt/apt.conf.d/80clusterai",
                 f"{HOME}/.termux/boot/clusterai-agent", f"{STATE}/node.pem", "var/lib/clusterai-compute/env/x/y",
                 "var/run/clusterai/status.json", "lib/clusterai-compute/dask/__pycache__/x.pyc"):  # fmt: skip
        phone.write(path, "x")
    done = phone.run("dpkg", *DPKG_OPTIONS, "--purge", "clusterai-agent", "clusterai-compute")
    assert done.returncode == 0, done.stderr
    assert agents(phone) == []
    wait(lambda: not any("clusterai" in " ".join(words) for words in phone.processes().values()), phone)
    left = {str(path) for path in phone.at("").rglob("*") if "clusterai" in str(path.relative_to(phone.at("")))}
    assert left == set()
    assert not phone.at(f"{HOME}/.termux/boot/clusterai-agent").exists()
    assert not re.search(r"directory '.*clusterai.*' not empty", done.stderr), done.stderr


def test_a_removal_without_a_purge_keeps_who_the_phone_is(phone: Phone, debs: dict[str, Path]) -> None:
    phone.write(f"{STATE}/node.pem", "x")
    assert phone.run("dpkg", *DPKG_OPTIONS, "--remove", "clusterai-agent").returncode == 0
    assert phone.at(f"{STATE}/node.pem").exists()
    assert not phone.at("bin/clusterai-agent").exists()
    assert phone.install(debs["clusterai-agent"]).returncode == 0
    assert phone.at(f"{STATE}/node.pem").read_text() == "x"


def test_another_minor_of_python_changes_nothing(phone: Phone) -> None:
    assert phone.run("clusterai-agent", "--version").returncode == 0
    phone.reboot(release="trixie")
    assert "3.13" in phone.run("python3", "--version").stdout
    for words in (("--version",), ("facts", "--json")):
        done = phone.run("clusterai-agent", *words)
        assert done.returncode == 0, done.stderr
    modules = "import sys; sys.path.insert(0, sys.argv[1]); import distributed, dask.array"
    done = phone.run("python3", "-c", modules, f"{PREFIX}/lib/clusterai-compute")
    assert done.returncode == 0, done.stderr


def test_nothing_of_a_user_s_python_gets_in_the_way(phone: Phone) -> None:
    phone.write(f"{HOME}/mine/clusterai/__init__.py", "raise SystemExit('wrong one')")
    assert phone.run("clusterai-agent", "--version", PYTHONPATH=f"{HOME}/mine").returncode == 0


def test_the_package_is_small_and_brings_its_licences(debs: dict[str, Path], phone: Phone) -> None:
    assert debs["clusterai-agent"].stat().st_size <= 3_000_000
    documents = phone.at("share/doc/clusterai-agent")
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in next(documents.glob("licences/zeroconf-*/COPYING")).read_text()
    assert {path.name.partition("-")[0] for path in documents.glob("licences/*")} == {
        "h2", "hpack", "hyperframe", "ifaddr", "protobuf", "zeroconf",
    }  # fmt: skip
    assert len((documents / "ARCHIVES").read_text().splitlines()) == 6


def test_nothing_in_the_packages_is_compiled_or_bound_to_a_python(debs: dict[str, Path]) -> None:
    paths = [Path(line.split()[5]) for deb in debs.values() for line in dpkg_deb("--contents", deb)]
    assert len(paths) > 500
    assert [path for path in paths if path.suffix in (".so", ".pyc", ".pxd") or "site-packages" in path.parts] == []


def test_it_asks_termux_for_no_package_that_compiles_on_the_phone(debs: dict[str, Path]) -> None:
    needed = {name.strip() for deb in debs.values() for name in dpkg_deb("--field", deb, "Depends")[0].split(",")}
    assert "openssl-tool" in needed, "it makes the keys"
    assert needed & {"python-cryptography", "python-pip", "clang", "rust"} == set()


def test_its_modules_are_compiled_when_it_is_installed(phone: Phone, newer: dict[str, Path]) -> None:
    modules = phone.at("lib/clusterai-agent")

    def compiled() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in modules.rglob("*.pyc")}

    before = compiled()
    assert len(before) == len(list(modules.rglob("*.py")))
    assert phone.run("clusterai-agent", "facts").returncode == 0
    assert compiled() == before, "the agent has nothing left to compile"
    assert phone.install(*newer.values()).returncode == 0
    assert compiled().keys() == before.keys()
    assert min(compiled().values()) > max(before.values())
