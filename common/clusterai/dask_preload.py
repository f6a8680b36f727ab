"""Runs inside Dask's own processes (`--preload`) and takes renewed certificates into them without a restart.

It is loaded by path into the compute environment, where no other module of ours is: only the standard library and
distributed here. Its periodic work is one stat(2) a second. The contexts are no public API of distributed:
tests/integration pins them per release, and a process in which they are not found ends at once.
"""

import asyncio
import logging
import os
import ssl
import threading
from typing import Any

log = logging.getLogger("distributed.clusterai")

_LOOK_SECONDS = 1.0
_CLOSE_SECONDS = 3.0  # it takes 0.1 s
_LEAST_CONTEXTS = 2  # one to listen, one to connect


def contexts(node: Any) -> list[ssl.SSLContext]:
    """Return the TLS contexts that a Scheduler, Worker or Nanny uses now, each once."""
    found: dict[int, ssl.SSLContext] = {}
    for listener in getattr(node, "listeners", None) or []:
        context = (getattr(listener, "server_args", None) or {}).get("ssl_options")
        if context is not None:
            found[id(context)] = context
    for holder in (node, getattr(node, "rpc", None)):
        arguments = getattr(holder, "connection_args", None)
        if isinstance(arguments, dict) and arguments.get("ssl_context") is not None:
            found[id(arguments["ssl_context"])] = arguments["ssl_context"]
    return list(found.values())


def check_pair(certificate: str, key: str, ca: str) -> None:
    """Let the certificate prove itself to itself in memory, with Dask's own rules; raise OSError when it fails.

    Never try a file on a live context: a load that fails leaves it unable to shake hands at all.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up)]
    for _ in range(10):
        sides = [side for side in sides if not _shaken(side)]
        if not sides:
            return
    raise ssl.SSLError("the handshake does not end")


def _shaken(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


class Rotation:
    """Loads a renewed certificate into the contexts in use. New handshakes show it; open connections go on."""

    def __init__(self, node: Any) -> None:
        self._node = node
        role = "scheduler" if type(node).__name__ == "Scheduler" else "worker"
        security = node.security
        self._certificate = getattr(security, f"tls_{role}_cert")
        self._key = getattr(security, f"tls_{role}_key") or self._certificate
        self._ca = security.tls_ca_file
        self._seen = self._stamp()

    async def run(self) -> None:
        """Watch the file for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            stamp = self._stamp()
            if stamp and stamp != self._seen:
                self._seen = stamp
                self.reload()

    def reload(self) -> bool:
        """Take the new certificate if it is good, else keep the old one and say so; return whether it was."""
        try:
            check_pair(self._certificate, self._key, self._ca)
            used = contexts(self._node)
            for context in used:
                context.load_cert_chain(self._certificate, self._key)
        except (OSError, ValueError) as error:
            log.error("keeping the old certificate, the new one in %s cannot be used: %s", self._certificate, error)
            return False
        if len(used) < _LEAST_CONTEXTS:
            log.critical("%s; restart it before its certificate expires", _too_few(used))
        log.info("took the new certificate in %s into %d contexts", self._certificate, len(used))
        return True

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._certificate)  # noqa: PTH116  the path is a string of Dask's
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size


def _too_few(found: list[ssl.SSLContext]) -> str:
    count = f"{len(found)} TLS contexts instead of {_LEAST_CONTEXTS}"
    return f"clusterai: found {count}: certificates could not be renewed with this version of distributed"


async def dask_setup(node: Any) -> None:
    """Dask's hook, after the node listens. Dask only logs what a hook raises, so a fault ends the process here."""
    found = contexts(node)
    if len(found) < _LEAST_CONTEXTS:
        raise SystemExit(_too_few(found))
    node.clusterai_rotation = asyncio.create_task(_rotate(node), name="clusterai rotation")


async def _rotate(node: Any) -> None:
    """Watch until the node closes or its loop ends, then make sure that the process does.

    A node that is asked to end while it closes, as when its scheduler goes first, has its close cancelled half way and
    then waits for ever.
    """
    try:
        await Rotation(node).run()
    finally:
        last = threading.Timer(_CLOSE_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()


def dask_teardown(node: Any) -> None:
    """Dask's hook, before the node closes. It must not wait: the close would be cancelled here."""
    watching = getattr(node, "clusterai_rotation", None)
    if watching is not None:
        watching.cancel()
