"""Where a package of ours keeps things: Debian's, and Termux's on a phone."""

from dataclasses import dataclass
from pathlib import Path

from clusterai.termux import termux_prefix


@dataclass(frozen=True)
class Places:
    """The paths of one package. `modules` is what the package clusterai-compute installs, on phones only."""

    config: Path
    state: Path
    compute: Path
    scratch: Path
    gate: Path
    runtime: Path
    modules: Path | None = None


def places(prefix: Path | None = None) -> Places:
    """Return the paths below Termux's prefix, given or this system's own; Debian's where there is none."""
    prefix = prefix or termux_prefix()
    if prefix is None:
        lib = Path("/var/lib")
        config, runtime = Path("/etc/clusterai/agent.toml"), Path("/run/clusterai-agent")
        return Places(
            config, lib / "clusterai-agent", lib / "clusterai-compute", lib / "clusterai-dask", lib / "clusterai-gate",
            runtime,
        )
    state, compute = prefix / "var/lib/clusterai-agent", prefix / "var/lib/clusterai-compute"
    return Places(
        config=prefix / "etc/clusterai/agent.toml",
        state=state,
        compute=compute,
        scratch=compute / "scratch",
        gate=state / "gate",
        runtime=prefix / "var/run/clusterai",
        modules=prefix / "lib/clusterai-compute",
    )
