"""Free space where workers and the environment lie."""

import os
from pathlib import Path

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData


class DiskCollector:
    """Free space on the file system of one directory."""

    name = "disk"
    every_seconds = 0.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self, sample: Sample) -> None:
        """Fill `disk_free_bytes`: what an ordinary user may still write; raise NoData when the directory is gone."""
        try:
            status = os.statvfs(self._directory)
        except FileNotFoundError as error:
            raise NoData(f"{self._directory} does not exist") from error
        sample.disk_free_bytes = status.f_bavail * status.f_frsize
