"""An environment on disk: finished or not, ours or not. Building is tests/integration/test_environment_build.py."""

import fcntl
import json
import sys
from pathlib import Path

import pytest

from clusterai import environment
from clusterai.environment import EnvironmentBusy, IndexConfig, NotAnEnvironment, build, read_complete, remove_others
from clusterai.pythons import NoSuchPython, available_minors, find_python, require_python

MINOR = f"3.{sys.version_info.minor}"


def finished(directory: Path, **versions: str) -> Path:
    (directory / "bin").mkdir(parents=True)
    (directory / "bin/python").symlink_to(sys.executable)
    (directory / ".complete").write_text(json.dumps({"versions": versions}))
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def silent(_ratio: float, _text: str) -> None:
    """Nobody watches."""


def test_a_finished_environment_tells_its_versions(tmp_path: Path) -> None:
    assert read_complete(finished(tmp_path / "env", dask="1", python="3.11.2")) == {"dask": "1", "python": "3.11.2"}


def test_one_that_is_not_finished_or_damaged_is_none(tmp_path: Path) -> None:
    assert read_complete(tmp_path / "absent") is None
    directory = finished(tmp_path / "env")
    for text in ("", "[]", "{", '{"versions": 3}'):
        (directory / ".complete").write_text(text)
        assert read_complete(directory) is None


def test_one_whose_python_was_upgraded_away_is_none(tmp_path: Path) -> None:
    directory = finished(tmp_path / "env", dask="1")
    (directory / "bin/python").unlink()
    (directory / "bin/python").symlink_to("/usr/bin/python3.2")
    assert read_complete(directory) is None


def test_old_environments_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("0" * 16, "1" * 16, "2" * 16):
        finished(tmp_path / name)
    (tmp_path / ("3" * 16)).mkdir()
    (tmp_path / ("3" * 16) / "precious").touch()
    finished(tmp_path / "notes")
    assert remove_others(tmp_path, {"1" * 16}) == ("0" * 16, "2" * 16)
    assert names(tmp_path) == ["1" * 16, "3" * 16, "notes"]
    assert read_complete(tmp_path / ("1" * 16)) is not None


def test_an_environment_that_is_being_built_is_not_removed(tmp_path: Path) -> None:
    directory = tmp_path / ("a" * 16)
    directory.mkdir()
    with (directory / ".building").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        assert remove_others(tmp_path, ()) == ()
    assert directory.exists()


async def test_a_finished_environment_is_not_built_again(tmp_path: Path) -> None:
    directory = finished(tmp_path / "env", dask="1")
    built = await build(directory, "no lock", Path("/no/python"), index=IndexConfig(), progress=silent)
    assert built.versions == {"dask": "1"}


@pytest.mark.parametrize("kind", ["directory", "file"])
async def test_a_path_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "photos"
    if kind == "directory":
        place.mkdir()
        (place / "holiday.jpg").touch()
    else:
        place.touch()
    with pytest.raises(NotAnEnvironment):
        await build(place, "", Path(sys.executable), index=IndexConfig(), progress=silent)
    assert place.is_file() or names(place) == ["holiday.jpg"]


async def test_two_builds_of_one_environment_do_not_meet(tmp_path: Path) -> None:
    directory = tmp_path / "env"
    directory.mkdir()
    with (directory / ".building").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentBusy):
            await build(directory, "", Path(sys.executable), index=IndexConfig(), progress=silent)


async def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotAnEnvironment):
        await build(tmp_path / "file/env", "", Path(sys.executable), index=IndexConfig(), progress=silent)
    with pytest.raises(environment.EnvironmentBuildFailed) as caught:
        await build(Path("/proc/env"), "", Path(sys.executable), index=IndexConfig(), progress=silent)
    assert "cannot make /proc/env" in str(caught.value)


def test_pip_is_told_where_wheels_come_from() -> None:
    assert IndexConfig().options() == []
    assert IndexConfig("https://index.example/simple").options() == ["--index-url", "https://index.example/simple"]
    offline = IndexConfig("https://index.example/simple", Path("/wheels"), offline=True)
    assert offline.options() == ["--no-index", "--find-links", "/wheels"]


def test_the_python_that_runs_this_is_found() -> None:
    found = find_python(MINOR)
    assert found is not None
    assert found.name.startswith("python3")
    assert MINOR in available_minors()


def test_a_python_that_is_only_a_broken_shim_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_python("3.99") is None
    assert find_python("../../bin/sh") is None


def test_a_python_that_uv_installed_is_found_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patch in ("3.77.9", "3.77.10"):
        program = tmp_path / f"cpython-{patch}-linux-x86_64-gnu/bin/python3.77"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho 3.77 {program}\n")
        program.chmod(0o755)
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path))
    found = find_python("3.77")
    assert found is not None
    assert "3.77.10" in str(found)


def test_a_missing_python_says_how_to_get_it() -> None:
    with pytest.raises(NoSuchPython) as caught:
        require_python("3.98")
    assert "has no Python 3.98; it has" in str(caught.value)
    assert "apt install python3.98 python3.98-venv" in caught.value.advice
    assert "uv python install 3.98" in caught.value.advice
