"""What a collector is."""

from typing import Protocol

from clusterai.v1.types_pb2 import Sample


class NoData(Exception):
    """The hardware or the right to read it is absent: normal, and said so in the sample."""


class Collector(Protocol):
    """Reads one kind of thing into a sample.

    `every_seconds` 0 means with each heartbeat, so it must take well below a millisecond; slower ones are read
    in a thread at that pace, and heartbeats carry their latest values.
    """

    name: str
    every_seconds: float

    def collect(self, sample: Sample) -> None:
        """Fill this collector's fields; raise NoData where there is nothing to read."""
