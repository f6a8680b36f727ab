"""Settings, from the variables that Ollama reads and a few of the double's own (FAKE_OLLAMA_…)."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.31.1"
GIB = 1 << 30
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def seconds(value: object) -> float:
    """Return a duration: a number is seconds, a text is Go's ("5m", "1h30m"); negative means for ever."""
    text = str(value).strip()
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        found = float(text)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
        if not parts or re.sub(r"[\d.]+(ns|us|µs|ms|s|m|h)", "", text) not in ("", "-"):
            raise ValueError(f"time: invalid duration {text!r}")
        found = sum(float(number) * _UNITS[unit] for number, unit in parts) * (-1 if text.startswith("-") else 1)
    return math.inf if found < 0 else found


def address(text: str) -> tuple[str, int]:
    """Return host and port of OLLAMA_HOST: a scheme is left out, and what is missing is the default."""
    scheme, found, rest = text.strip().strip("\"'").partition("://")
    default = {"http": 80, "https": 443}.get(scheme, 11434) if found else 11434
    rest = (rest if found else scheme).partition("/")[0]
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", rest)
    host, port = (match[1].strip("[]"), match[2]) if match else (rest.strip("[]"), None)
    return host or "127.0.0.1", int(port) if port and int(port) < 1 << 16 else default


def _flag(text: str) -> bool:
    return text.lower() not in ("", "0", "f", "false")


@dataclass(frozen=True)
class Settings:
    """What Ollama was started with. Sizes in bytes, times in seconds."""

    host: str
    port: int
    models: Path
    context_length: int
    parallel: int
    max_loaded: int
    max_queue: int
    keep_alive: float
    no_prune: bool
    no_cloud: bool
    origins: tuple[str, ...]
    version: str
    registry: str  # instead of https://registry.ollama.ai
    vram: int  # of all GPUs; 0: none
    part_bytes: int  # the least size of a part that is pulled by itself
    stall_seconds: float
    retry_seconds: float
    control: Path | None  # a JSON file with the faults
    environment: Mapping[str, str]

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Settings":
        """Read the variables."""

        def number(name: str, default: int) -> int:
            text = variables.get(name, "")
            return int(text) if text.isdigit() else default

        host, port = address(variables.get("OLLAMA_HOST", ""))
        models = variables.get("OLLAMA_MODELS") or f"{variables.get('HOME', '/')}/.ollama/models"
        control = variables.get("FAKE_OLLAMA_CONTROL")
        return cls(
            host=host, port=port, models=Path(models),
            context_length=number("OLLAMA_CONTEXT_LENGTH", 0),
            parallel=number("OLLAMA_NUM_PARALLEL", 1) or 1,
            max_loaded=number("OLLAMA_MAX_LOADED_MODELS", 0) or 3,
            max_queue=number("OLLAMA_MAX_QUEUE", 512),
            keep_alive=seconds(variables.get("OLLAMA_KEEP_ALIVE") or "5m"),
            no_prune=_flag(variables.get("OLLAMA_NOPRUNE", "")),
            no_cloud=_flag(variables.get("OLLAMA_NO_CLOUD", "")),
            origins=tuple(filter(None, variables.get("OLLAMA_ORIGINS", "").split(","))),
            version=variables.get("FAKE_OLLAMA_VERSION", VERSION),
            registry=variables.get("FAKE_OLLAMA_REGISTRY", "").rstrip("/"),
            vram=number("FAKE_OLLAMA_VRAM", 0),
            part_bytes=number("FAKE_OLLAMA_PART_BYTES", 100_000_000),
            stall_seconds=float(variables.get("FAKE_OLLAMA_STALL_SECONDS", "30")),
            retry_seconds=float(variables.get("FAKE_OLLAMA_RETRY_SECONDS", "1")),
            control=Path(control) if control else None,
            environment={name: value for name, value in variables.items() if name.startswith(("OLLAMA_", "FAKE_"))},
        )  # fmt: skip

    @classmethod
    def here(cls) -> "Settings":
        """Read this process's variables."""
        return cls.of(os.environ)

    @property
    def context(self) -> int:
        """The context of a model for which nobody asks another: by the GPUs' memory where it is not set."""
        if self.context_length:
            return self.context_length
        return 262_144 if self.vram >= 47 * GIB else 32_768 if self.vram >= 23 * GIB else 4_096
