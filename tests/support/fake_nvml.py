"""A fake NVML: the part of pynvml (nvidia-ml-py 12) that the agent calls, with its types and its errors.

It stands for the module itself: `Nvml(lambda: FakeNvml(card))`.
"""

from collections import namedtuple
from dataclasses import dataclass, field

NVML_TEMPERATURE_GPU = 0
Memory = namedtuple("Memory", ("total", "free", "used"))  # noqa: PYI024  as the real module's c_nvmlMemory_t: attributes
Utilization = namedtuple("Utilization", ("gpu", "memory"))  # noqa: PYI024


@dataclass
class Card:
    """One GPU; `missing` names the calls that it does not support."""

    uuid: str
    name: str | bytes
    total: int
    used: int
    busy: int
    celsius: int
    milliwatts: int
    missing: set[str] = field(default_factory=set)


class FakeNvml:
    """Stands for the module `pynvml`."""

    NVML_TEMPERATURE_GPU = NVML_TEMPERATURE_GPU

    class NVMLError(Exception):
        """As the real one: its text says what NVML said."""

    class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801
        pass

    class NVMLError_NoPermission(NVMLError):  # noqa: N801
        pass

    class NVMLError_Uninitialized(NVMLError):  # noqa: N801
        pass

    def __init__(self, *cards: Card, driver: bool = True) -> None:
        self.cards, self.driver = list(cards), driver
        self.opened = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError_LibraryNotFound("NVML Shared Library Not Found")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.54.15"

    def nvmlDeviceGetCount(self) -> int:
        if not self.driver:
            raise self.NVMLError_Uninitialized("Uninitialized")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetUUID(self, handle: Card) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Card) -> str | bytes:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Card) -> Memory:
        self._supported(handle, "memory")
        return Memory(handle.total, handle.total - handle.used, handle.used)

    def nvmlDeviceGetUtilizationRates(self, handle: Card) -> Utilization:
        self._supported(handle, "utilization")
        return Utilization(handle.busy, 0)

    def nvmlDeviceGetTemperature(self, handle: Card, sensor: int) -> int:
        assert sensor == NVML_TEMPERATURE_GPU
        return handle.celsius

    def nvmlDeviceGetPowerUsage(self, handle: Card) -> int:
        self._supported(handle, "power")
        return handle.milliwatts

    def _supported(self, handle: Card, what: str) -> None:
        if what in handle.missing:
            raise self.NVMLError_NotSupported("Not Supported")
