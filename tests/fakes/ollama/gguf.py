"""The head of a model file (GGUF, version 3): its keys and values, written and read. There are no tensors in ours.

Source: the format's description in ggml's repository, docs/gguf.md.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

Value = int | float | str | bool
_MAGIC, _VERSION = b"GGUF", 3
_UINT32, _FLOAT32, _BOOL, _STRING, _UINT64 = 4, 6, 7, 8, 10
_FORMATS = {_UINT32: "<I", _FLOAT32: "<f", _BOOL: "<?", _UINT64: "<Q"}


def header(values: Mapping[str, Value]) -> bytes:
    """Return a file's head with these values."""
    pairs = b"".join(_string(key) + _value(value) for key, value in values.items())
    return _MAGIC + struct.pack("<IQQ", _VERSION, 0, len(values)) + pairs


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    return struct.pack("<II", _UINT32, value) if value < 1 << 32 else struct.pack("<IQ", _UINT64, value)


def read(path: Path) -> dict[str, Value]:
    """Return the values in a file's head; raise ValueError when it is no such file."""
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise ValueError("invalid file magic")
        _, _, count = struct.unpack("<IQQ", _exactly(file, 20))
        return dict(_pair(file) for _ in range(min(count, 1000)))


def _pair(file: BinaryIO) -> tuple[str, Value]:
    key = _read_string(file)
    (kind,) = struct.unpack("<I", _exactly(file, 4))
    if kind == _STRING:
        return key, _read_string(file)
    if kind not in _FORMATS:
        raise ValueError(f"a value of kind {kind}")
    (value,) = struct.unpack(_FORMATS[kind], _exactly(file, struct.calcsize(_FORMATS[kind])))
    return key, value


def _read_string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    return _exactly(file, min(length, 1 << 20)).decode()


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("unexpected EOF")
    return data
