"""examples/census.py on a real Dask cluster, against a plain walk of the same tree."""

import importlib.util
import json
import os
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.census import NOT_UTF8, groups, make_tree, reference
from support.examples import dask, run
from support.pool_environment import pool_environment
from support.tree import ROOT

SCRIPT = ROOT / "examples/census.py"


@pytest.fixture(scope="module")
def census() -> ModuleType:
    """The script as a module, for what can be decided without a cluster."""
    spec = importlib.util.spec_from_file_location("census", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["census"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


async def test_it_finds_what_a_plain_walk_finds(tree: Path, tmp_path: Path) -> None:
    async with dask(tmp_path, "127.0.0.1") as variables:
        code, out, err = await run(SCRIPT, variables, tree, cwd=tmp_path)
    assert code == 0, err
    result = json.loads((tmp_path / "census.json").read_text())
    expected = reference(tree)
    (machine,) = result["machines"]
    assert (machine["files"], machine["bytes"]) == (expected.files, expected.size)
    assert machine["special_files"] == 3
    assert machine["unreadable"] == 0
    # Which name of a hard link is reported is open: compare with the reference's own choice taken out.
    links = {str(tree / "big-a"), str(tree / "hard-link-of-big-a")}
    assert {group - links for group in groups(result)} == {group - links for group in expected.groups}
    assert result["duplicates"]["files"] == sum(map(len, expected.groups))
    assert sum(kind["files"] for kind in result["types"]) == expected.files
    assert sum(kind["bytes"] for kind in result["types"]) == expected.size
    assert all(len(line) <= 80 for line in out.splitlines()), out
    assert out.splitlines()[-1] == "  python3 -m json.tool census.json | less"


async def test_each_machine_walks_its_own_tree_and_duplicates_are_found_across(tree: Path, tmp_path: Path) -> None:
    async with dask(tmp_path, "127.0.0.1", "127.0.0.2", "127.0.0.2") as variables:
        code, out, err = await run(SCRIPT, variables, tree, "--json", "--out", "-", cwd=tmp_path)
    assert code == 0, err
    assert err == ""
    result = json.loads(out)
    expected = reference(tree)
    assert [machine["address"] for machine in result["machines"]] == ["127.0.0.1", "127.0.0.2"]
    assert [machine["files"] for machine in result["machines"]] == [expected.files] * 2
    assert len({machine["name"] for machine in result["machines"]}) == 2
    not_empty = sum(1 for group in result["duplicates"]["largest"])
    assert result["duplicates"]["groups_across_machines"] == not_empty == result["duplicates"]["groups"]


async def test_a_name_that_is_no_utf8_survives_json(tree: Path, tmp_path: Path) -> None:
    async with dask(tmp_path, "127.0.0.1") as variables:
        code, _, err = await run(SCRIPT, variables, tree, cwd=tmp_path)
    assert code == 0, err
    result = json.loads((tmp_path / "census.json").read_text())
    paths = {os.fsencode(path) for group in groups(result) for path in group}
    assert os.fsencode(tree) + b"/" + NOT_UTF8 in paths


async def test_a_limit_is_kept_and_shown(tree: Path, tmp_path: Path) -> None:
    async with dask(tmp_path, "127.0.0.1") as variables:
        code, out, err = await run(SCRIPT, variables, tree, "--limit", "50", cwd=tmp_path)
    assert code == 0, err
    (machine,) = json.loads((tmp_path / "census.json").read_text())["machines"]
    assert 50 <= machine["files"] <= 200
    assert machine["limited"]
    assert "--limit" in out


async def test_what_goes_wrong_is_a_sentence(tmp_path: Path) -> None:
    programs = (await pool_environment()) / "bin"
    variables = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    code, _, err = await run(SCRIPT, variables, cwd=tmp_path)
    assert code == 1
    assert "no cluster is configured\n  clusteractl dask env" in err
    async with dask(tmp_path, "127.0.0.1") as variables:
        code, _, err = await run(SCRIPT, variables, tmp_path / "absent", cwd=tmp_path)
        assert code == 1
        assert "absent: No such file or directory" in err
        code, _, err = await run(SCRIPT, variables, tmp_path, "--out", "/proc/result", cwd=tmp_path)
        assert code == 1
        assert "cannot write /proc/result" in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "kind"),
    [(b"/a/b.TXT", "txt"), (b"/lib/libc.so.6", "so"), (b"/x.tar.gz", "gz"), (b"/bin/ls", "-"), (b"/.bashrc", "-"),
     (b"/a.7z", "7z"), (b"/man/ls.1", "-"), (b"/x.\xff\xfe", "-"), (b"/x.waytoolongforatype", "-"), (b"/d.d/f", "-")],
)  # fmt: skip
def test_types_come_from_names(census: ModuleType, name: bytes, kind: str) -> None:
    assert census.file_type(name) == kind


def test_a_file_that_changes_while_it_is_read_is_no_duplicate(census: ModuleType, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "log")
    Path(os.fsdecode(path)).write_bytes(b"x" * 20_000)
    with pytest.raises(OSError, match="changed"):
        census.hash_whole(path, 19_999)
    with pytest.raises(OSError, match="changed"):
        census.hash_ends(path, 20_001)
    errors: list[tuple[bytes, str]] = []
    assert census.attempt(lambda: census.hash_ends(path, 1), path, errors) == b""
    assert errors == [(path, "changed while it was read")]


def test_a_pipe_in_the_place_of_a_file_does_not_block(census: ModuleType, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="changed"):
        census.hash_whole(os.fsencode(tmp_path / "pipe"), 0)


def test_samples_are_bounded_and_weighted_by_bytes(census: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "zeros.x").write_bytes(bytes(8 << 20))
    (tmp_path / "noise.x").write_bytes(random.Random(1).randbytes(8 << 20))
    batch = census.scan([os.fsencode(tmp_path)], None, 1_000)
    read, by_zlib, by_lzma = census.compress(batch, {"x": 1 / 8})["x"]
    assert 1 << 20 <= read <= 3 << 20
    assert 0.4 < by_zlib / read < 0.6
    assert 0.4 < by_lzma / read < 0.6


def test_names_cannot_move_the_cursor(census: ModuleType) -> None:
    assert census.printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"
    assert census.printable(os.fsdecode(NOT_UTF8)) == "caf\\xe9.txt"


async def test_a_machine_that_leaves_is_given_up_and_named(census: ModuleType) -> None:
    """The census of the others goes on; the machine's part is missing and said to be."""
    crew = object.__new__(census.Crew)
    crew.lost = {}
    crew._host_of = lambda address: address
    crew._workers = lambda: {"here": {}}

    class Future:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    gone, here = Future(), Future()
    pending = {gone: "gone", here: "here"}
    crew._drop_lost(pending, {"gone": -1e9})
    assert pending == {here: "here"}
    assert gone.cancelled
    assert "gone for" in crew.lost["gone"]
