"""Whether this machine's clock is the reason that there is no session: a failed handshake does not tell."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

from clusterai.errors import ClusterAIError
from clusterai.remote import split_address
from clusterai_agent.addresses import SERVER_PORT

_PAUSE_SECONDS, _ANSWER_SECONDS = 30.0, 4.0


class ServerClock:
    """What time a server can have, by the certificates that it shows. Who shows them is not checked: it is a hint."""

    def __init__(self) -> None:
        self._asked_at = -_PAUSE_SECONDS
        self._address = ""
        self._chain: tuple[bytes, ...] = ()

    async def difference(self, address: str) -> ClusterAIError | None:
        """Return what is wrong with the clocks of this machine and of the server there; None: nothing that is known.

        A server is asked every 30 s at most.
        """
        from clusterai.shown_certificates import ClockDiffers, check_clock, shown_chain  # seldom needed

        if address != self._address or time.monotonic() - self._asked_at > _PAUSE_SECONDS:
            self._address, self._asked_at, self._chain = address, time.monotonic(), ()
            with contextlib.suppress(ClusterAIError, TimeoutError):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self._chain = await shown_chain(*split_address(address, SERVER_PORT))
        try:
            if self._chain:
                check_clock(address, self._chain, datetime.now(UTC))
        except ClockDiffers as difference:
            return difference
        except ValueError:
            pass
        return None
