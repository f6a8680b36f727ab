"""Linters are tests: what they say fails the build."""

from support.tree import ROOT, python_files, run_tool, shell_files


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", "--no-cache", "--output-format=concise", *map(str, python_files()))


def test_shellcheck_finds_nothing() -> None:
    run_tool("/usr/bin/shellcheck", *map(str, shell_files()))


def test_there_is_something_to_lint() -> None:
    assert ROOT / "scripts/test" in shell_files()
    assert ROOT / "common/clusterai/errors.py" in python_files()
