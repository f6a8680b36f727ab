"""What the lock says, read without pip."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.lockfile import BadLock, EnvironmentKey, lock, versions_in

MINORS = ("3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize("minor", MINORS)
def test_the_shipped_lock_pins_what_a_pool_needs(minor: str) -> None:
    versions = versions_in(lock(), minor)
    assert {"dask", "distributed", "bokeh", "numpy", "cloudpickle", "msgpack", "lz4", "tornado"} <= versions.keys()
    assert versions["dask"] == versions["distributed"]


def test_the_shipped_lock_has_a_hash_for_every_pin_and_names_no_host() -> None:
    text = lock()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for pin in re.split(r"\n(?=\S)", text):
        if not pin.startswith("#"):
            assert "--hash=sha256:" in pin, pin


def test_the_versions_of_packages_that_differ_by_python_come_from_their_marker() -> None:
    text = "numpy==2.4 ; python_full_version < '3.12' \\\n --hash=sha256:00\n"
    text += "numpy==2.5 ; python_full_version >= '3.12'\n"
    assert versions_in(text, "3.11") == {"numpy": "2.4"}
    assert versions_in(text, "3.12") == {"numpy": "2.5"}
    assert versions_in(text, "3.14") == {"numpy": "2.5"}


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ("sys_platform == 'linux'", sys.platform == "linux"),
        ("sys_platform == 'win32'", False),
        ("sys_platform != 'win32' and python_version >= '3.10'", True),
        ("sys_platform == 'win32' or python_version >= '3.10'", True),
        ("(sys_platform == 'win32' or os_name == 'posix') and python_version < '3.9'", False),
        ("'linux' in sys_platform", True),
        ("platform_machine not in 'nothing'", True),
        ('python_version < "3.2"', False),
    ],
)
def test_markers(marker: str, holds: bool) -> None:
    assert bool(versions_in(f"x==1 ; {marker}\n", "3.11")) is holds


@pytest.mark.parametrize(
    "text",
    ["numpy>=2\n", "-r other.txt\n", "numpy\n", "x==1 ; sys_platform\n", "x==1 ; colour == 'red'\n",
     "x==1 ; (os_name == 'posix'\n", "x==1 ; os_name == 'posix' os_name == 'nt'\n", "x==1 ; os_name < 'posix'\n",
     "x==1 ; python_version ~= '3.1'\n", "x==1 ; os_name == 'posix' and\n"],
)  # fmt: skip
def test_what_is_no_pin_is_refused(text: str) -> None:
    with pytest.raises(BadLock):
        versions_in(text, "3.11")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        versions = versions_in(text, "3.11")
    except BadLock:
        return
    assert all(name and version for name, version in versions.items())


def test_the_hash_depends_on_python_and_lock() -> None:
    keys = {EnvironmentKey(minor, text).hash for minor in MINORS for text in ("a", "b")}
    assert len(keys) == 8
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


def test_the_hash_is_that_of_the_wire() -> None:
    """Nodes of another version compute it too: it must never change."""
    assert EnvironmentKey("3.11", "lock\n").hash == "e615fc93216e2e6b"


def test_the_lock_is_the_one_beside_its_source() -> None:
    directory = Path(__file__).resolve().parents[3] / "common/clusterai/data"
    assert lock() == (directory / "pool.lock").read_text()
    asked = re.findall(r"^([a-z0-9-]+)", (directory / "pool.in").read_text(), re.MULTILINE)
    assert set(asked) <= versions_in(lock(), "3.11").keys()
