"""Files that are whole or absent."""

import os
import stat
from pathlib import Path

import pytest

from clusterai.files import BadFile, CannotWrite, load_json, point_link, read_limited, remove, write_atomic


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_text("old and longer than the new one")
    write_atomic(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.pem"]


def test_a_secret_is_never_readable_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "file").symlink_to("other")
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "other").read_text() == "other"
    assert not (tmp_path / "file").is_symlink()


def test_a_link_leads_to_another_target_at_once_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    link = tmp_path / "current"
    for target in ("one", "two"):
        point_link(link, target)
        assert link.readlink() == Path(target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["current"]
    (tmp_path / "full").mkdir()
    with pytest.raises(CannotWrite):
        point_link(tmp_path / "full", "one")
    with pytest.raises(CannotWrite):
        point_link(tmp_path / "none/current", "one")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["current", "full"]


def test_whoever_owns_the_directory_cannot_turn_a_write_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, goal = tmp_path / "victim", tmp_path / "f"
    victim.write_text("untouched")
    real_open, real_replace = os.open, Path.replace

    def opened(path: Path, flags: int, *args: int) -> int:
        descriptor = real_open(path, flags, *args)
        if flags & os.O_CREAT:  # the directory's owner is quick
            path.unlink()
            path.symlink_to(victim)
        return descriptor

    def replaced(self: Path, target: Path) -> Path:
        real_replace(self, target)
        target.unlink()
        target.symlink_to("/nonexistent")
        return target

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomic(goal, b"secret", 0o644, owner=(os.getuid(), os.getgid()))
    assert victim.read_text() == "untouched"


def test_a_failed_write_keeps_the_old_file_and_says_what_to_look_at(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    with pytest.raises(CannotWrite) as refused:
        write_atomic(path, b"data")
    assert str(path) in str(refused.value)
    assert f"df {tmp_path}" in refused.value.advice
    assert [entry.name for entry in tmp_path.iterdir()] == ["directory"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="No such file or directory"):
        write_atomic(tmp_path / "none" / "file", b"data")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "\x00", "[" * 10_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=r"state\.json"):
        load_json(path)


def test_a_json_object_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": [1, "ü"]}')
    assert load_json(tmp_path / "a") == {"a": [1, "ü"]}


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert len(read_limited(tmp_path / "a", 11)) == 11
    with pytest.raises(BadFile, match="longer than 10 bytes"):
        read_limited(tmp_path / "a", 10)


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="No such file") as refused:
        read_limited(tmp_path / "none", 10)
    assert refused.value.advice


def test_what_cannot_be_removed_is_named_and_what_is_absent_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        remove(tmp_path / "file")
    with pytest.raises(CannotWrite, match=str(tmp_path)):
        remove(tmp_path)
