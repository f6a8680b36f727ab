"""How often one address may fail at the enrolment port."""

import ipaddress
from collections import deque
from collections.abc import Callable

from clusterai.errors import ClusterAIError, Status

_ADDRESS_LIMIT = 1024  # addresses remembered at once


class TooManyAttempts(ClusterAIError):
    code, status = "too-many-attempts", Status.EXHAUSTED
    message = "too many refused attempts from {address}"
    hint = "wait {seconds} s, then try again with a new token from `clusteractl token create`"


class Attempts:
    """Counts attempts of each address (of each /64 for IPv6) in a sliding window; bounded in memory."""

    def __init__(self, clock: Callable[[], float], limit: int = 20, window_seconds: float = 60) -> None:
        self._clock, self._limit, self._window = clock, limit, window_seconds
        self._times: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """Raise TooManyAttempts when the address has used up its attempts for now."""
        times = self._times.get(source_of(address), deque())
        while times and times[0] <= self._clock() - self._window:
            times.popleft()
        if len(times) >= self._limit:
            raise TooManyAttempts(address=address, seconds=round(times[0] + self._window - self._clock()) + 1)

    def count(self, address: str) -> None:
        """Count one attempt."""
        source = source_of(address)
        times = self._times.pop(source, deque(maxlen=self._limit))
        times.append(self._clock())
        self._times[source] = times
        if len(self._times) > _ADDRESS_LIMIT:
            del self._times[next(iter(self._times))]  # the one that tried longest ago


def source_of(address: str) -> str:
    """What one party controls: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
