"""Files of /proc that stay open: opening and closing costs more than the kernel takes to write the numbers."""

import os
import weakref
from pathlib import Path

PROC = Path("/proc")
_CHUNK = 1 << 14


class ProcFile:
    """One file; each reading from its start holds the values of that moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self) -> bytes:
        """Return the whole file; raise OSError where it cannot be had."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
        text = b""
        while chunk := os.pread(self._descriptor, _CHUNK, len(text)):
            text += chunk
        return text
