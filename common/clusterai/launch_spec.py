"""Launch files: JSON with exactly the fields of a class, checked before anything is started from it."""

import dataclasses
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_type_hints
from urllib.parse import urlsplit

from clusterai.errors import ClusterAIError, Status

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class BadLaunch(ClusterAIError):
    code, status = "bad-launch", Status.USAGE
    message = "launch file{where}: {key}: {reason}"
    hint = "the agent or the daemon writes this file; restart it (`systemctl restart clusterai-agent` or `clusteraid`)"

    def __init__(self, key: str, reason: str, where: str = "") -> None:
        self.key, self.reason = key, reason
        super().__init__(key=key, reason=reason, where=where and f" {where}")


class Launch:
    """What all kinds share: JSON with exactly the fields of the class."""

    def to_json(self) -> str:
        """Return the launch file's text; the same launch always gives the same text."""
        return json.dumps(dataclasses.asdict(self), default=str, indent=1, sort_keys=True) + "\n"  # type: ignore[call-overload]

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Return the launch of a file's text.

        Raises:
            BadLaunch: not JSON, a field too many or too few, or a value that the program must not be given.
        """
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadLaunch("(file)", f"not JSON: {error}") from error
        if not isinstance(table, dict):
            raise BadLaunch("(file)", "not a JSON object")
        launch = cls(**_fields(cls, table))
        launch.check()
        return launch

    def check(self) -> None:
        """Refuse values that make no sense."""
        raise NotImplementedError

    def check_presence(self) -> None:
        """Refuse when a file that it names is not there."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what the program needs before it starts; raise OSError."""

    def command(self) -> list[str]:
        """Return the command that is exec'ed."""
        raise NotImplementedError

    def defaults(self) -> dict[str, str]:
        """Return the environment variables that the unit's own go before."""
        return {}

    def variables(self) -> dict[str, str]:
        """Return what is added to the environment variables."""
        return {}

    def require_readable(self, *keys: str) -> None:
        """Refuse when one of these files cannot be read."""
        for key in keys:
            path = getattr(self, key)
            self.require(os.access(path, os.R_OK), key, f"{path} cannot be read by user {os.geteuid()}")

    def check_paths(self) -> None:
        """Refuse paths that are relative or lead upwards."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            path = getattr(self, field.name)
            if isinstance(path, Path) and (not path.is_absolute() or ".." in path.parts):
                raise BadLaunch(field.name, f"{path} must be an absolute path without ..")

    def require(self, good: object, key: str, reason: str) -> None:
        """Refuse the field unless good."""
        if not good:
            raise BadLaunch(key, reason)


def _fields(cls: type, table: dict[str, Any]) -> dict[str, Any]:
    """Return the table's values as the class's types; raise BadLaunch for any that does not fit."""
    types = get_type_hints(cls)
    for key in sorted(table.keys() - types.keys()):
        raise BadLaunch(key[:80], "unknown field")
    for key in sorted(types.keys() - table.keys()):
        raise BadLaunch(key, "is missing")
    return {key: _value(types[key], value, key) for key, value in table.items()}


def _value(kind: Any, value: Any, key: str) -> Any:
    if isinstance(value, str) and not value.isprintable():
        raise BadLaunch(key, "holds characters that cannot be printed")
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind in (str, int) and type(value) is kind:
        return value
    if kind == Mapping[str, float] and isinstance(value, dict):
        return {name: _amount(amount, key) for name, amount in value.items()}
    raise BadLaunch(key, f"must be {getattr(kind, '__name__', kind)}, not {type(value).__name__}")


def _amount(value: Any, key: str) -> float:
    if type(value) not in (int, float):
        raise BadLaunch(key, "amounts must be numbers")
    return float(value)


def is_address(text: str) -> bool:
    """Whether it is HOST:PORT and nothing else."""
    try:
        parts = urlsplit(f"//{text}")
        plain = parts.netloc == text and "@" not in text
        return bool(plain and parts.hostname and parts.port is not None and is_host(parts.hostname))
    except ValueError:
        return False


def is_host(text: str) -> bool:
    """Whether it is a name or an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return True


def bracketed(host: str) -> str:
    """Return the host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
