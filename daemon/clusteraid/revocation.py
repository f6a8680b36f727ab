"""Which certificates are refused although they have not expired."""

import asyncio
from collections.abc import Callable

from clusterai.ids import Identity
from clusteraid.ports import CertificateStore
from clusteraid.uninterrupted import uninterrupted


class Revocations:
    """The deny-list, in memory for every call, on disk for the next start."""

    def __init__(self, store: CertificateStore, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._serials: frozenset[str] = frozenset()
        self._listeners: list[Callable[[Identity], None]] = []
        self.changing = asyncio.Lock()  # held while a renewal is issued: none slips past a revocation

    async def load(self) -> None:
        """Read the deny-list of the store; once at start, before anything is served."""
        self._serials = await self._store.revoked_serials(self._clock())

    def is_revoked(self, serial: str) -> bool:
        """Whether the certificate with this serial is refused."""
        return serial in self._serials

    @property
    def serials(self) -> frozenset[str]:
        """The serials of the certificates that are refused."""
        return self._serials

    def on_revoked(self, listener: Callable[[Identity], None]) -> None:
        """Call the listener after certificates of an identity were revoked: it closes the identity's live sessions."""
        self._listeners.append(listener)

    async def revoke(self, identity: Identity) -> None:
        """Refuse every certificate that the identity has now; a later enrolment gets a new one."""
        await uninterrupted(self._revoke(identity))

    async def _revoke(self, identity: Identity) -> None:
        async with self.changing:
            await self._store.revoke_identity(str(identity))
            await self.revoked_elsewhere(identity)

    async def revoked_elsewhere(self, identity: Identity) -> None:
        """Take over what the store revoked in a transaction of its own."""
        await self.load()
        for listener in self._listeners:
            listener(identity)
