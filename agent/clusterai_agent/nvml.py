"""NVIDIA's management library: the only module that meets NVML. It is imported on use; most machines have none."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clusterai.v1.types_pb2 import GpuFacts, GpuSample
from clusterai_agent.collectors.api import NoData

VENDORED = Path("/usr/lib/clusterai/vendor")
_TEXT_LIMIT = 128


def import_pynvml() -> Any:
    """Return nvidia-ml-py's module, the system's or the one in our package; raise NoData where there is neither."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        pass
    if VENDORED.is_dir() and str(VENDORED) not in sys.path:
        sys.path.append(str(VENDORED))
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise NoData("the module pynvml (nvidia-ml-py) is not installed") from error


class Nvml:
    """The GPUs of this machine. The driver may come and go (upgrades), so every reading opens NVML when it is shut."""

    def __init__(self, load: Callable[[], Any] = import_pynvml) -> None:
        self._load = load
        self._module: Any = None
        self._driver = ""

    def facts(self) -> list[GpuFacts]:
        """Return what the GPUs are; raise NoData where there are none."""
        return self._each(self._fact)

    def samples(self) -> list[GpuSample]:
        """Return what the GPUs do now; a value that the card does not support stays 0. Raises NoData."""
        return self._each(self._sample)

    def close(self) -> None:
        """Let go of the driver."""
        module, self._module = self._module, None
        if module is not None:
            try:
                module.nvmlShutdown()
            except module.NVMLError:
                return

    def _each(self, read: Callable[[int, Any], Any]) -> list[Any]:
        module = self._opened()
        try:
            found = [read(index, handle) for index, handle in self._handles(module)]
        except module.NVMLError as error:
            self.close()
            raise NoData(f"NVML: {error}") from error
        if not found:
            raise NoData("the NVIDIA driver shows no GPU")
        return found

    def _opened(self) -> Any:
        if self._module is None:
            module = self._load()
            try:
                module.nvmlInit()
                self._driver = _text(module.nvmlSystemGetDriverVersion())
            except module.NVMLError as error:
                raise NoData(f"no usable NVIDIA driver: {error}") from error
            self._module = module
        return self._module

    def _handles(self, module: Any) -> Iterator[tuple[int, Any]]:
        for index in range(module.nvmlDeviceGetCount()):
            yield index, module.nvmlDeviceGetHandleByIndex(index)

    def _fact(self, index: int, handle: Any) -> GpuFacts:
        module = self._module
        return GpuFacts(
            index=index,
            uuid=_text(module.nvmlDeviceGetUUID(handle)),
            name=_text(module.nvmlDeviceGetName(handle)),
            memory_total_bytes=self._or_zero(lambda: module.nvmlDeviceGetMemoryInfo(handle).total),
            driver_version=self._driver,
        )

    def _sample(self, index: int, handle: Any) -> GpuSample:
        module = self._module
        celsius = getattr(module, "NVML_TEMPERATURE_GPU", 0)
        return GpuSample(
            index=index,
            busy_ratio=self._or_zero(lambda: module.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            memory_used_bytes=self._or_zero(lambda: module.nvmlDeviceGetMemoryInfo(handle).used),
            temperature_celsius=self._or_zero(lambda: module.nvmlDeviceGetTemperature(handle, celsius)),
            power_watts=self._or_zero(lambda: module.nvmlDeviceGetPowerUsage(handle) / 1000),
        )

    def _or_zero(self, read: Callable[[], Any]) -> Any:
        """The value, or 0 where this card does not know it (laptop cards, MIG, vGPU)."""
        unsupported = (self._module.NVMLError_NotSupported, self._module.NVMLError_NoPermission)
        try:
            return read()
        except unsupported:
            return 0


def _text(value: str | bytes) -> str:
    """Text of either version of the module: older ones return bytes."""
    return (value.decode(errors="replace") if isinstance(value, bytes) else value)[:_TEXT_LIMIT]
