"""The files of this repository, found without git: a source archive has none."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common/clusterai", "daemon/clusteraid", "daemon/clusteractl", "agent/clusterai_agent")
GENERATED = ROOT / "common/clusterai/v1"
_LEFT_OUT = {
    ".git",
    ".venv",
    ".pybuild",
    ".cache",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    "__pycache__",
    "build",
    "dist",
    "census.json",  # what the README's first command writes
    "digest.json",
}
_TOOLS = Path(sys.executable).parent
_DEBIAN_BUILD = ("clusteraid", "clusteractl", "clusterai-agent", "python3-clusterai", "tmp", ".debhelper")


@cache
def files() -> tuple[Path, ...]:
    """Return every file that a person wrote, sorted."""
    return tuple(sorted(_walk(ROOT)))


def _walk(directory: Path) -> Iterator[Path]:
    for entry in os.scandir(directory):
        path = Path(entry.path)
        if entry.is_symlink() or _left_out(path):
            continue
        if entry.is_dir():
            yield from _walk(path)
        elif not (path.parent == GENERATED and "_pb2" in path.name):
            yield path


def _left_out(path: Path) -> bool:
    built = path.parent == ROOT / "packaging/debian" and path.name in _DEBIAN_BUILD and path.is_dir()
    return built or path.name in _LEFT_OUT or path.name.startswith(".venv-") or path.suffix == ".egg-info"


def _shebang(path: Path) -> str:
    with path.open("rb") as file:
        line = file.readline(200)
    return line.decode(errors="replace") if line.startswith(b"#!") else ""


@cache
def python_files() -> tuple[Path, ...]:
    """Return the Python files, scripts without a suffix too."""
    return tuple(path for path in files() if path.suffix == ".py" or (not path.suffix and "python" in _shebang(path)))


@cache
def shell_files() -> tuple[Path, ...]:
    """Return the shell scripts: what begins with a shebang of sh or bash."""
    return tuple(path for path in files() if _shebang(path).strip().endswith(("/sh", "/bash", "/sh -e", " bash")))


@cache
def modules() -> tuple[Path, ...]:
    """Return the programs' own modules: no tests, no scripts, no stubs."""
    return tuple(path for path in python_files() if path.relative_to(ROOT).as_posix().startswith(PACKAGES))


@cache
def syntax(path: Path) -> ast.Module:
    """Return the module's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    """Return the path below the root, for messages and tables."""
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    """Return a file's text; empty for a binary file."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def python_path() -> dict[str, str]:
    """Return the environment in which a fresh interpreter finds the packages, and nothing of the root."""
    parents = (str((ROOT / package).parent) for package in PACKAGES)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(parents))}


def run_tool(tool: str, *arguments: str) -> str:
    """Run a tool of the virtual environment, or an absolute path; its complaints are the failure's text."""
    command = [str(_TOOLS / tool), *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False, env=python_path()
    )
    assert ended.returncode == 0, f"{tool} complains:\n{ended.stdout}{ended.stderr}"
    return ended.stdout
