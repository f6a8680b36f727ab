"""Free space where workers and the environment lie."""

import os
from pathlib import Path

from clusterai.v1.types_pb2 import Sample


class DiskCollector:
    """Free space on the file system of one directory, or of where it will be made."""

    name = "disk"
    every_seconds = 0.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self, sample: Sample) -> None:
        """Fill `disk_free_bytes`: what an ordinary user may still write."""
        try:
            status = os.statvfs(self._directory)
        except FileNotFoundError:
            status = os.statvfs(self._place())
        sample.disk_free_bytes = status.f_bavail * status.f_frsize

    def _place(self) -> Path:
        return next(path for path in (self._directory, *self._directory.parents) if path.exists())
