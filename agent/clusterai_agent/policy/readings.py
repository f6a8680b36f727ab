"""What the policy needs to know, from the collectors that read it anyway."""

import asyncio
import time
from collections.abc import Iterable

from clusterai.policy import Settings
from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import Collector
from clusterai_agent.collectors.battery import BatteryCollector
from clusterai_agent.collectors.phone import PhoneBatteryCollector, PhoneWifiCollector
from clusterai_agent.collectors.temperature import TemperatureCollector
from clusterai_agent.collectors.termux_api import ANSWER_SECONDS, Phone
from clusterai_agent.policy.decide import Pause, Readings
from clusterai_agent.sampling import read_into

_PATIENCE_SECONDS = 3.0
_PHONE_PATIENCE_SECONDS = 2 * ANSWER_SECONDS + 1  # for both of its programs: an answer of before still counts
_CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "x86_pkg_temp", "cpu_thermal", "cpu-thermal", "soc_thermal")


class Reader:
    """Reads only what the settings ask for: a machine that always works looks at nothing."""

    def __init__(
        self, battery: Collector | None = None, temperature: Collector | None = None, phone: Phone | None = None
    ) -> None:
        self._phone = phone
        own: Collector = PhoneBatteryCollector(phone.battery) if phone else BatteryCollector()
        self._battery, self._temperature = battery or own, temperature or TemperatureCollector()
        self._wifi = PhoneWifiCollector(phone.wifi) if phone else None
        self._reading: asyncio.Task[Sample] | None = None

    def set_pace(self, *, working: bool) -> None:
        """Tell what is slow to read how soon a change must be known."""
        if self._phone is not None:
            self._phone.set_pace(working=working)

    async def read(self, settings: Settings, pause: Pause | None) -> Readings:
        """Return the readings as of now. A sensor that hangs is unknown until it has answered."""
        collectors = []
        on_charge = pause is not None and pause.until_charged
        if settings.needs_battery or settings.battery_temperature_stop_celsius > 0 or on_charge:
            collectors.append(self._battery)
        if settings.cpu_temperature_stop_celsius > 0:
            collectors.append(self._temperature)
        if settings.unmetered_only and self._wifi is not None:
            collectors.append(self._wifi)
        sample = await self._sample(collectors) if collectors else Sample()
        return readings_of(sample, pause, time.time(), time.localtime().tm_gmtoff)

    async def _sample(self, collectors: Iterable[Collector]) -> Sample:
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(_collected, tuple(collectors)), name="policy reads")
        try:
            await asyncio.wait({self._reading}, timeout=_PHONE_PATIENCE_SECONDS if self._phone else _PATIENCE_SECONDS)
        except asyncio.CancelledError:
            self._reading.cancel()  # whoever waits for it is going
            raise
        if not self._reading.done():
            return Sample()
        reading, self._reading = self._reading, None
        return reading.result()


def readings_of(sample: Sample, pause: Pause | None, now: float, utc_offset_seconds: float) -> Readings:
    """Return what a sample says about work and rest: off Wi-Fi is metered. Nothing here tells idle time yet."""
    battery = sample.battery if sample.HasField("battery") else None
    processors = [one.celsius for one in sample.temperatures if one.sensor.startswith(_CPU_CHIPS)]
    return Readings(
        at=now,
        utc_offset_seconds=utc_offset_seconds,
        charge=battery.charge_ratio if battery else None,
        plugged_in=battery.plugged_in if battery and not battery.plugged_unknown else None,
        battery_celsius=(battery.temperature_celsius or None) if battery else None,
        cpu_celsius=max(processors, default=None),
        metered=not sample.wifi.connected if sample.HasField("wifi") else None,
        pause=pause,
    )


def _collected(collectors: Iterable[Collector]) -> Sample:
    sample = Sample()
    for collector in collectors:
        read_into(collector, sample)
    return sample


