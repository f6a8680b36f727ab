"""mypy in strict mode over the programs, the examples and the tests."""

from support.tree import python_files, run_tool


def test_mypy_finds_nothing() -> None:
    files = [str(path) for path in python_files() if path.name != "setup.py"]
    run_tool("mypy", "--scripts-are-modules", "--no-error-summary", *files)
