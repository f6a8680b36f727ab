"""Generates the gRPC stubs at build time with the target's own tools; everything else is in pyproject.toml."""

import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PROTOS = sorted((ROOT / "proto/clusterai/v1").glob("*.proto"))


def compiler() -> list[str]:
    """Return the command of a protoc that also writes gRPC stubs: the distribution's, else grpcio-tools'."""
    protoc, plugin = which("protoc"), which("grpc_python_plugin")
    if protoc and plugin:
        return [protoc, f"--plugin=protoc-gen-grpc_python={plugin}"]
    try:
        import grpc_tools  # noqa: F401
    except ImportError:
        packages = "protobuf-compiler protobuf-compiler-grpc libprotobuf-dev"
        sys.exit(f"no protoc with gRPC plugin\n  apt install {packages}, or pip install grpcio-tools")
    return [sys.executable, "-m", "grpc_tools.protoc"]


def generate(target: Path) -> None:
    """Write `clusterai/v1/*_pb2*.py` and their `.pyi` below the target folder."""
    target.mkdir(parents=True, exist_ok=True)
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    files = [str(path.relative_to(ROOT / "proto")) for path in PROTOS]
    subprocess.run([*compiler(), f"-I{ROOT / 'proto'}", *outputs, *files], check=True, cwd=ROOT)


class BuildPy(build_py):
    """Copies the modules, then puts fresh stubs beside them."""

    def run(self) -> None:
        super().run()
        generate(Path(self.build_lib))


class BuildProto(Command):
    """`python3 setup.py build_proto`: stubs in the source tree, for tests and editors."""

    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self) -> None:
        """Nothing to set."""

    def finalize_options(self) -> None:
        """Nothing to check."""

    def run(self) -> None:
        generate(ROOT / "common")


setup(cmdclass={"build_py": BuildPy, "build_proto": BuildProto})
