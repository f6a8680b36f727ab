"""Runs inside the Dask scheduler (`--preload`): lets in no worker and no client of another Python minor.

Dask only warns of it, and then workers crash: code that one minor has pickled is no code for another. It is loaded by
path into the compute environment, where no other module of ours is: only the standard library here.
"""

import logging
import os
import sys
import time
from typing import Any

log = logging.getLogger("distributed.clusterai")

_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
_SHOWN = 20


def minor_of(versions: object) -> str:
    """Return the Python minor in what a peer tells with distributed.versions.get_versions(); empty when it does not."""
    packages = versions.get("packages") if isinstance(versions, dict) else None
    told = packages.get("python") if isinstance(packages, dict) else None
    return ".".join(told.split(".")[:2])[:_SHOWN] if isinstance(told, str) else ""


def refusal(pool: str, who: str, versions: object) -> str:
    """Return why this worker or client is not let in; empty when it is."""
    minor = minor_of(versions)
    if minor == _MINOR:
        return ""
    has = f"runs Python {minor}" if minor.isprintable() and minor else "does not tell its Python"
    return (
        f"the pool {pool} runs Python {_MINOR}, and this {who} {has}: between minors Dask crashes workers, so it is "
        f"not let in; `clusteractl dask env --pool {pool} --create PATH` makes an environment that matches"
    )


class Gate:
    """Stands before the scheduler's own handlers of workers and clients that register."""

    def __init__(self, scheduler: Any, pool: str) -> None:
        self._pool, handlers = pool, scheduler.handlers
        self._add_worker, self._add_client = handlers["register-worker"], handlers["register-client"]
        handlers["register-worker"], handlers["register-client"] = self.worker, self.client

    async def worker(self, comm: Any, **told: Any) -> Any:
        """Dask's handler: a worker that is refused ends with the reason in its log."""
        reason = refusal(self._pool, "worker", told.get("versions"))
        if not reason:
            return await self._add_worker(comm, **told)
        log.warning("refused the worker at %s: %s", comm.peer_address, reason)
        await comm.write({"status": "error", "message": reason, "time": time.time()})
        return None

    async def client(self, comm: Any, **told: Any) -> Any:
        """Dask's handler: the `Client()` that is refused raises ImportError with the reason."""
        reason = refusal(self._pool, "client", told.get("versions"))
        if not reason:
            return await self._add_client(comm, **told)
        log.warning("refused the client at %s: %s", comm.peer_address, reason)
        await comm.write([{"op": "stream-start", "error": reason}])
        await comm.close()
        return None


def dask_setup(scheduler: Any) -> None:
    """Dask's hook, after the scheduler listens and before it hears anything: it must not wait.

    Dask only logs what a hook raises, so a fault ends the process here.
    """
    try:
        scheduler.clusterai_gate = Gate(scheduler, os.environ["CLUSTERAI_POOL"])
    except KeyError as error:
        raise SystemExit(f"clusterai: this version of distributed has no handler {error}") from error
