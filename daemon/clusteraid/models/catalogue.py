"""The catalogue: well known models with their sizes, and the administrator's own entries, which come first."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from pathlib import Path
from tomllib import loads
from typing import Any

from clusterai.config import ConfigError, Section, decode, read_toml
from clusterai.models import BadModelName, normalised
from clusterai.v1.types_pb2 import ModelShape, OllamaModel
from clusteraid.status import Problems

_SHIPPED = Path("catalog.toml")
_MOST_BYTES, _MOST_TOKENS, _MOST_HEADS, _TEXT_LIMIT, _ENTRY_LIMIT = 1 << 44, 1 << 27, 1 << 16, 120, 2000


class SizeClass(Enum):
    """How large the download is."""

    SMALL = "small"  # < 2 GB
    MEDIUM = "medium"  # 2 to 7
    LARGE = "large"  # 7 to 15
    HUGE = "huge"  # > 15

    @classmethod
    def of(cls, size_bytes: int) -> "SizeClass":
        """Return the class of a size."""
        for limit, member in ((2, cls.SMALL), (7, cls.MEDIUM), (15, cls.LARGE)):
            if size_bytes < limit * 10**9:
                return member
        return cls.HUGE


class ModelType(Enum):
    """What a model is made for."""

    TEXT = "text"
    CODE = "code"
    MULTIMODAL = "multimodal"
    EMBEDDING = "embedding"
    SPECIALISED = "specialised"


class Purpose(Enum):
    """What people want it for."""

    GENERAL = "general"
    PROGRAMMING = "programming"
    CREATIVE = "creative"
    ANALYSIS = "analysis"
    EDUCATION = "education"


@dataclass(frozen=True)
class Entry(Section):
    """A model of the catalogue. `size_bytes` is approximate; layers and heads are 0 where nobody knows them."""

    name: str = ""
    title: str = ""
    type: ModelType = ModelType.TEXT
    purposes: tuple[Purpose, ...] = (Purpose.GENERAL,)
    size_bytes: int = 0
    licence: str = ""
    context_length: int = 0
    parameters: str = ""
    family: str = ""
    layers: int = 0
    kv_heads: int = 0
    head_length: int = 0

    def validate(self) -> None:
        """Refuse what cannot be."""
        try:
            if normalised(self.name) != self.name:
                self.reject("name", self.name, f"is written {normalised(self.name)!r} here")
        except BadModelName as error:
            self.reject("name", self.name, str(error))
        limits = {"size_bytes": (1, _MOST_BYTES), "context_length": (0, _MOST_TOKENS), "layers": (0, _MOST_HEADS),
                  "kv_heads": (0, _MOST_HEADS), "head_length": (0, _MOST_HEADS)}
        for key, (least, most) in limits.items():
            if not least <= getattr(self, key) <= most:
                self.reject(key, getattr(self, key), f"must be {least} to {most}")
        for key in ("title", "licence", "parameters", "family"):
            if not getattr(self, key).isprintable() or len(getattr(self, key)) > _TEXT_LIMIT:
                self.reject(key, getattr(self, key), f"must be at most {_TEXT_LIMIT} printable characters")
        if not self.purposes:
            self.reject("purposes", self.purposes, "must not be empty")

    @property
    def size_class(self) -> SizeClass:
        """How large it is."""
        return SizeClass.of(self.size_bytes)

    @property
    def info(self) -> OllamaModel:
        """What a node would tell of it, as far as that is known before it is fetched."""
        shape = ModelShape(
            layer_count=self.layers, kv_head_count=self.kv_heads, key_length=self.head_length,
            value_length=self.head_length, context_length=self.context_length,
        )
        capability = "embedding" if self.type is ModelType.EMBEDDING else "completion"
        return OllamaModel(
            model=self.name, size_bytes=self.size_bytes, family=self.family, parameter_size=self.parameters,
            capabilities=[capability], shape=shape,
        )


@dataclass(frozen=True)
class Catalogue:
    """All entries by name; `own` names those of the administrator's file."""

    version: str
    entries: Mapping[str, Entry]
    own: frozenset[str] = frozenset()

    def info(self, name: str) -> OllamaModel | None:
        """Return what is known of a model before any node has it; None for one that is not in the catalogue."""
        entry = self.entries.get(name)
        return None if entry is None else entry.info


def parse_catalogue(table: Mapping[str, Any], file: Path) -> Catalogue:
    """Return the catalogue that a TOML file has.

    Raises:
        ConfigError: an entry that makes no sense; names file, entry, key and reason.
    """
    for key in table.keys() - {"version", "model"}:
        raise ConfigError(file, key, table[key], "unknown key; known are model, version")
    version, tables = table.get("version", ""), table.get("model", [])
    if not isinstance(version, str):
        raise ConfigError(file, "version", version, "must be a string")
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        raise ConfigError(file, "model", tables, "must be [[model]] tables")
    if len(tables) > _ENTRY_LIMIT:
        raise ConfigError(file, "model", len(tables), f"must be at most {_ENTRY_LIMIT} tables")
    entries: dict[str, Entry] = {}
    for number, values in enumerate(tables, start=1):
        entry = decode(Entry, values, file=file, prefix=f"model[{str(values.get('name') or number)[:80]}].")
        if entry.name in entries:
            raise ConfigError(file, f"model[{entry.name}].name", entry.name, "stands there twice")
        entries[entry.name] = entry
    return Catalogue(version, entries)


def shipped_catalogue() -> Catalogue:
    """Return the catalogue that came with this version."""
    text = files("clusteraid.data").joinpath(_SHIPPED.name).read_text(encoding="utf-8")
    return parse_catalogue(loads(text), _SHIPPED)


class CatalogueFile:
    """The shipped catalogue, the administrator's entries over it. A file that is wrong changes nothing but says so."""

    def __init__(self, own_file: Callable[[], Path], problems: Problems) -> None:
        self._own_file, self._problems = own_file, problems
        self._shipped = shipped_catalogue()
        self.catalogue = self._shipped
        self.reload()

    def size_of(self, name: str) -> int:
        """Return a model's size in bytes; 0 when it is not in the catalogue."""
        entry = self.catalogue.entries.get(name)
        return 0 if entry is None else entry.size_bytes

    def reload(self) -> None:
        """Read the administrator's file again."""
        file = self._own_file()
        try:
            own = Catalogue("", {}) if _is_missing(file) else parse_catalogue(read_toml(file), file)
        except ConfigError as error:
            self._problems.set("catalogue", f"the own entries of the catalogue were rejected: {error}")
            return
        self._problems.set("catalogue", "")
        entries = {**self._shipped.entries, **own.entries}
        self.catalogue = Catalogue(self._shipped.version, entries, frozenset(own.entries))


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # reading it says why
    return False


def selected(entries: Iterable[Entry], size_class: str, model_type: str, purpose: str) -> tuple[Entry, ...]:
    """Return the entries of that class, type and purpose, the smallest first; an empty word is any."""
    return tuple(
        sorted(
            (
                entry
                for entry in entries
                if size_class in ("", entry.size_class.value)
                and model_type in ("", entry.type.value)
                and purpose in ("", *(one.value for one in entry.purposes))
            ),
            key=lambda entry: (entry.size_bytes, entry.name),
        )
    )
