"""What pip's words mean: how far it is, and why it failed. Pure; the words are those of pip 23 to 26."""

import re
from collections.abc import Sequence

from clusterai.errors import ClusterAIError, Status


class EnvironmentBuildFailed(ClusterAIError):
    code, status = "environment-build-failed", Status.FAILED
    message = "the environment could not be built: {reason}"
    hint = "{fix}"

    def __init__(self, reason: str, fix: str = "see the log for pip's output; the next start tries again") -> None:
        super().__init__(reason=reason, fix=fix)


class VenvMissing(EnvironmentBuildFailed):
    code = "venv-missing"

    def __init__(self, minor: str) -> None:
        super().__init__(f"Python {minor} here cannot make virtual environments", f"apt install python{minor}-venv")


class IndexUnreachable(EnvironmentBuildFailed):
    code, status = "index-unreachable", Status.UNREACHABLE

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the package index does not answer ({reason})",
            "check the network, or name an index or a directory of wheels: index_url or wheel_directory under "
            "[environment] in agent.toml, the options --index-url or --wheels of a command",
        )


class HashMismatch(EnvironmentBuildFailed):
    code, status = "hash-mismatch", Status.DENIED

    def __init__(self, package: str) -> None:
        super().__init__(
            f"{package} is not the file that the lock names",
            "nothing was installed; the index or wheel directory serves another file by that name: find out why",
        )


class NoWheel(EnvironmentBuildFailed):
    code = "no-wheel"

    def __init__(self, package: str) -> None:
        super().__init__(
            f"there is no wheel of {package} for this Python and platform",
            "use a Python that the lock has wheels for, or put one into the wheel directory (docs/environment.md)",
        )


class DiskFull(EnvironmentBuildFailed):
    code, status = "disk-full", Status.EXHAUSTED

    def __init__(self, directory: object) -> None:
        fix = f"free at least 500 MB (`df -h {directory}`); what was half-built is removed"
        super().__init__("the disk is full", fix)


def collected(line: str) -> bool:
    """Whether the line begins the work on one more package."""
    return line.startswith(("Collecting ", "Processing "))


def shown(line: str) -> str:
    """Return the line as progress text, or "" when it says nothing to a person."""
    if match := re.match(r"\s*Downloading (\S+?)-([\d.]+\w*)-\S+( \([\d.]+ [kM]?B\))?", line):
        return f"downloading {match[1]} {match[2]}{match[3] or ''}"
    return "installing" if line.startswith("Installing collected packages") else ""


def explain(lines: Sequence[str], directory: object, minor: str) -> EnvironmentBuildFailed:
    """Return the error that pip's or venv's last lines tell of."""
    text = "\n".join(lines)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return DiskFull(directory)
    if re.search(r"ensurepip is not\s+available", text) or re.search(r"No module named '?(venv|ensurepip)\b", text):
        return VenvMissing(minor)
    if mismatch := re.search(r"DO NOT MATCH THE HASHES.*?\n\s+(\S+)", text, re.DOTALL):
        return HashMismatch(mismatch[1])
    return _unfound(text) or EnvironmentBuildFailed(_last_words(lines))


def _unfound(text: str) -> EnvironmentBuildFailed | None:
    """A package that pip did not get: for want of an answer when connections broke, else because there is none."""
    broken = re.findall(r"connection broken by '(\w+)|(\w*(?:Timeout|Connection|Proxy|SSL|HTTP)Error)\b", text)
    missing = re.search(r"(?:No matching distribution found for|satisfies the requirement) (\S+)", text)
    if broken:
        return IndexUnreachable(_cause(text) or "".join(broken[-1]))
    return NoWheel(missing[1]) if missing else None


def _cause(text: str) -> str:
    causes = re.findall(r"\[Errno -?\d+\] [^'\")\]]+|timed out|certificate verify failed|\d{3} \w+ Error", text)
    return re.sub(r"\[Errno -?\d+\] ", "", causes[-1]).strip().lower() if causes else ""


def _last_words(lines: Sequence[str]) -> str:
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.startswith(("ERROR", "Error", "error"))]
    return (errors or said or ["pip ended without a word"])[-1][:300]
