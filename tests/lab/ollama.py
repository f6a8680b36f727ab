"""The test doubles of Ollama and of its registry on the lab's machines: they need nothing but Debian's python3.

Real model weights cannot be had here. Everything around the doubles is real.
"""

import hashlib
import shutil
import tarfile
from pathlib import Path

from lab.images import ROOT
from lab.machine import Machine

_FAKES = ROOT / "tests/fakes"
_PROGRAM = """#!/usr/bin/python3 -B
import os, runpy, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../lib/ollama"))
runpy.run_module("fakes.ollama", run_name="__main__", alter_sys=True)
"""
REGISTRY_PORT = 8089


def archive(directory: Path) -> tuple[Path, str]:
    """Make a release archive of the double, as Ollama's are laid out; return it and its SHA-256."""
    tree = directory / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/ollama").write_text(_PROGRAM)
    (tree / "bin/ollama").chmod(0o755)
    shutil.copytree(_FAKES, tree / "lib/ollama/fakes", ignore=shutil.ignore_patterns("__pycache__"))
    path = directory / "ollama-linux-amd64.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for part in ("bin", "lib"):
            tar.add(tree / part, part)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def serve_registry(machine: Machine, models: dict[str, int]) -> None:
    """Run the registry's double there, with models of so many bytes, as a unit `lab-registry`, instead of an older."""
    machine.run(["systemctl", "stop", "lab-registry"], check=False)
    machine.copy_in(_FAKES, "/srv/doubles/fakes")
    pairs = [f"{name}={size}" for name, size in models.items()]
    unit = ["systemd-run", "--quiet", "--unit=lab-registry", "--setenv=PYTHONPATH=/srv/doubles"]
    machine.run([*unit, "python3", "-B", "-m", "fakes.registry", f"0.0.0.0:{REGISTRY_PORT}", *pairs])
    machine.eventually(lambda: f":{REGISTRY_PORT} " in machine.run(["ss", "-ltn"]), "the registry's double listens")


def settings(machine: Machine, registry: Machine, **variables: str) -> None:
    """Tell the machine's double where its registry is, and what else it shall pretend; before it is installed."""
    variables["FAKE_OLLAMA_REGISTRY"] = f"http://{registry.address}:{REGISTRY_PORT}"
    lines = "".join(f"Environment={name}={value}\n" for name, value in variables.items())
    machine.write("/etc/systemd/system/ollama.service.d/lab.conf", f"[Service]\n{lines}")
