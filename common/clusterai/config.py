"""Configuration: TOML tables into frozen dataclasses; an error names file, key, value and reason."""

import dataclasses
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from clusterai.errors import ClusterAIError, Status
from clusterai.files import BadFile, read_limited

T = TypeVar("T")
_FILE_LIMIT = 1 << 20
_SHOWN = 80


class ConfigError(ClusterAIError):
    code, status = "bad-configuration", Status.USAGE
    message = "{file}: {key} = {value}: {reason}"
    hint = "correct it, then check with --check-config"

    def __init__(self, file: Path, key: str, value: object, reason: str) -> None:
        shown = repr(value)
        super().__init__(file=file, key=key, reason=reason, value=shown[:_SHOWN] + "…" * (len(shown) > _SHOWN))


class ConfigUnreadable(ConfigError):
    message = "{file}: {reason}"

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(file, "", "", reason)


class _Rejected(ValueError):
    """A value that a section's own check refused."""

    def __init__(self, key: str, value: object, reason: str) -> None:
        super().__init__(key, reason)
        self.value = value


class Section:
    """Base of configuration classes that check their values: `validate` calls `reject`."""

    def reject(self, key: str, value: object, reason: str) -> NoReturn:
        """Refuse the value of one of this section's keys."""
        raise _Rejected(key, value, reason)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the file's tables; raise ConfigUnreadable when it cannot be read or is no TOML."""
    try:
        return tomllib.loads(read_limited(path, _FILE_LIMIT).decode())
    except BadFile as error:
        raise ConfigUnreadable(path, str(error.details["reason"])) from error
    except (ValueError, RecursionError) as error:
        raise ConfigUnreadable(path, f"not TOML: {error}") from error


def decode(cls: type[T], table: Mapping[str, Any], *, file: Path, prefix: str = "") -> T:
    """Return the dataclass filled from the table; what the table leaves out keeps the class's default.

    `prefix` stands before the keys that errors name: where in the file the table is.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value that the class's own `validate` refuses.
    """
    return _Decoder(file).section(cls, table, prefix)


@dataclasses.dataclass(frozen=True)
class _Decoder:
    file: Path

    def section(self, cls: type[T], table: Mapping[str, Any], prefix: str) -> T:
        types = get_type_hints(cls)
        known = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
        for key in table.keys() - known:
            raise ConfigError(self.file, prefix + key, table[key], f"unknown key; known are {', '.join(sorted(known))}")
        values = {key: self.value(types[key], value, prefix + key) for key, value in table.items()}
        try:
            section = cls(**values)
        except TypeError as error:
            raise ConfigUnreadable(self.file, f"[{prefix.rstrip('.')}] lacks a key: {error}") from error
        self.validate(section, prefix)
        return section

    def validate(self, section: object, prefix: str) -> None:
        check = getattr(section, "validate", None)
        if check is None:
            return
        try:
            check()
        except ValueError as error:
            key, reason = error.args if len(error.args) == 2 else ("", str(error))
            value = error.value if isinstance(error, _Rejected) else getattr(section, str(key), "")
            raise ConfigError(self.file, prefix + str(key), value, str(reason)) from error

    def value(self, kind: Any, value: Any, key: str) -> Any:
        """Return the value as the annotated type, or raise ConfigError."""
        if get_origin(kind) in (Union, UnionType):
            kind = next(part for part in get_args(kind) if part is not NoneType)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            return self.section(kind, value, f"{key}.")  # type: ignore[arg-type]
        if get_origin(kind) is tuple and isinstance(value, list):
            return tuple(self.value(get_args(kind)[0], item, key) for item in value)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return self.member(kind, value, key)
        return self.scalar(kind, value, key)

    def member(self, kind: type[Enum], value: Any, key: str) -> Enum:
        for member in kind:
            if member.value == value:
                return member
        choices = ", ".join(repr(member.value) for member in kind)
        raise ConfigError(self.file, key, value, f"must be one of {choices}")

    def scalar(self, kind: Any, value: Any, key: str) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str) and value and "\0" not in value:
            return Path(value).expanduser()
        if type(value) is kind:
            return value
        raise ConfigError(self.file, key, value, f"must be {_described(kind)}, not {_described(type(value))}")


def _described(kind: Any) -> str:
    """The type in TOML's words."""
    if dataclasses.is_dataclass(kind) or kind is dict:
        return "a table"
    if get_origin(kind) is tuple or kind is list:
        return "a list"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", Path: "a path"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
