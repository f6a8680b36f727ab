"""The puller: a registry's manifest and blobs, in parts, resumed, verified, the manifest last."""

import asyncio
import errno
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from fakes.http import Answer, asked
from fakes.ollama.faults import Faults
from fakes.ollama.names import REGISTRY, Name, is_digest
from fakes.ollama.settings import Settings
from fakes.ollama.store import Store

PARTS, LARGEST_PART, ATTEMPTS, DIRECT_SECONDS = 16, 1_000_000_000, 6, 30.0
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
Tell = Callable[[dict[str, Any]], Awaitable[None]]


class PullError(Exception):
    """A pull that failed, in Ollama's words."""


class Stalled(Exception):
    """A part without progress."""


@dataclass
class Part:
    """A piece of a blob, as its file `<blob>-partial-<n>` keeps it."""

    number: int
    offset: int
    size: int
    completed: int = 0

    def save(self, blob: Path) -> None:
        """Write the file."""
        value = {"N": self.number, "Offset": self.offset, "Size": self.size, "Completed": self.completed}
        Path(f"{blob}-partial-{self.number}").write_text(json.dumps(value) + "\n")


@dataclass
class Download:
    """A blob on its way; several pulls may wait for it."""

    digest: str
    parts: list[Part]
    running: int = 0  # bytes of parts that are not saved yet
    waiting: int = 0
    task: "asyncio.Task[None] | None" = field(default=None)

    @property
    def progress(self) -> dict[str, Any]:
        """A line for the client."""
        done = sum(part.completed for part in self.parts) + self.running
        line = {"status": f"pulling {self.digest[7:19]}", "digest": self.digest}
        return {**line, "total": sum(part.size for part in self.parts), **({"completed": done} if done else {})}


class Puller:
    """Pulls models into a store."""

    def __init__(self, settings: Settings, store: Store, faults: Faults) -> None:
        self._settings, self._store, self._faults = settings, store, faults
        self.downloads: dict[str, Download] = {}

    async def pull(self, name: Name, *, insecure: bool, tell: Tell) -> None:
        """Pull a model, telling each step; raise PullError."""
        if name.scheme == "http" and not insecure:
            raise PullError("insecure protocol http")
        name = self._store.existing(name)
        old = self._store.find(str(name))
        await tell({"status": "pulling manifest"})
        base = self._base(name, insecure)
        raw = await self._manifest(f"{base}/v2/{name.repository}/manifests/{name.tag}")
        value = json.loads(raw)
        digests = list(dict.fromkeys(str(layer["digest"]) for layer in (*value["layers"], value["config"])))
        if bad := [digest for digest in digests if not is_digest(digest)]:
            raise PullError(f"invalid digest format: {bad[0]}")
        fresh = [each for each in digests if await self._blob(f"{base}/v2/{name.repository}/blobs/{each}", each, tell)]
        await tell({"status": "verifying sha256 digest"})
        for digest in fresh:
            await self._verify(digest)
        await tell({"status": "writing manifest"})
        self._store.write(name, raw)
        await self._drop_unused(old.files if old else (), tell)
        await tell({"status": "success"})

    async def _drop_unused(self, files: Any, tell: Tell) -> None:
        unused = {layer.digest for layer in files} - {
            layer.digest for model in self._store.models() for layer in model.files
        }
        if unused and not self._settings.no_prune:
            await tell({"status": "removing unused layers"})
            self._store.drop(unused)

    def _base(self, name: Name, insecure: bool) -> str:
        if name.host == REGISTRY and self._settings.registry:
            return self._settings.registry
        return f"{'http' if insecure else name.scheme}://{name.host}"

    async def _manifest(self, url: str) -> bytes:
        try:
            async with asked("GET", url, {"Accept": MANIFEST_TYPE}) as answer:
                body = await answer.body()
                _check(answer, body)
        except PullError as error:
            raise PullError(f"pull model manifest: {error}") from None
        except OSError as error:
            raise PullError(f'pull model manifest: Get "{url}": {error}') from None
        return body

    async def _blob(self, url: str, digest: str, tell: Tell) -> bool:
        """Bring a blob onto the disk; False when it was there. One that is there is not verified again."""
        path = self._store.blob(digest)
        if path.exists():
            size = path.stat().st_size
            line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": size, "completed": size}
            await tell(line)
            return False
        download = self.downloads.get(digest)
        if download is None:
            download = self.downloads[digest] = Download(digest, [])
            download.task = asyncio.create_task(self._fetch(download, url), name=f"pull {digest[7:19]}")
        await self._wait(download, tell)
        return True

    async def _wait(self, download: Download, tell: Tell) -> None:
        """Tell the progress until the blob is there. When nobody waits any more, the download ends."""
        assert download.task is not None
        download.waiting += 1
        try:
            while not (await asyncio.wait({download.task}, timeout=0.06))[0]:
                if download.parts:
                    await tell(download.progress)
            download.task.result()
            await tell(download.progress)
        finally:
            download.waiting -= 1
            if not download.waiting and not download.task.done():
                download.task.cancel()
                await asyncio.wait({download.task})

    async def _fetch(self, download: Download, url: str) -> None:
        path = self._store.blob(download.digest)
        try:
            download.parts = _saved_parts(path) or await self._new_parts(path, url)
            partial = Path(f"{path}-partial")
            file = os.open(partial, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                os.truncate(file, sum(part.size for part in download.parts))
                await self._all_parts(download, await self._direct(url), file)
            finally:
                os.close(file)
            for part in download.parts:
                Path(f"{path}-partial-{part.number}").unlink()
            partial.rename(path)
        except OSError as error:
            raise PullError(f"{(error.strerror or str(error)).lower()}") from error
        finally:
            self.downloads.pop(download.digest, None)

    async def _new_parts(self, path: Path, url: str) -> list[Part]:
        async with asked("HEAD", url) as answer:
            _check(answer, b"")
            total = int(answer.headers.get("content-length", "0"))
        size = min(max(total // PARTS, self._settings.part_bytes), max(LARGEST_PART, self._settings.part_bytes))
        parts = [Part(n, at, min(size, total - at)) for n, at in enumerate(range(0, total, size))]
        for part in parts:
            part.save(path)
        return parts

    async def _direct(self, url: str) -> str:
        """Return where the bytes are. A redirect to the same host name is followed; the last answer has to name it."""
        asked_at = url
        try:
            async with asyncio.timeout(DIRECT_SECONDS):
                for _ in range(10):
                    async with asked("GET", url) as answer:
                        if answer.status >= 400:
                            _check(answer, await answer.body())
                        if answer.status not in (200, 307):
                            raise PullError(f"unexpected status code {answer.status}")
                        if "location" not in answer.headers:
                            raise PullError("http: no Location header in response")
                        goal = urljoin(url, answer.headers["location"])
                    if answer.status == 200 or urlsplit(goal).hostname != urlsplit(asked_at).hostname:
                        return goal
                    url = goal
        except TimeoutError:
            raise PullError("context deadline exceeded") from None
        raise PullError("maximum redirects exceeded (10) for directURL")

    async def _all_parts(self, download: Download, url: str, file: int) -> None:
        room = asyncio.Semaphore(PARTS)

        async def one(part: Part) -> None:
            async with room:
                await self._part(download, part, url, file)

        tasks = [
            asyncio.create_task(one(part), name=f"part {part.number}")
            for part in download.parts
            if part.completed < part.size
        ]
        try:
            for task in asyncio.as_completed(tasks):
                await task
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _part(self, download: Download, part: Part, url: str, file: int) -> None:
        attempt = 0
        while True:
            try:
                return await self._chunk(download, part, url, file)
            except Stalled:
                continue
            except OSError as error:
                attempt += 1
                if error.errno == errno.ENOSPC:
                    raise
                if attempt == ATTEMPTS:
                    raise PullError(f"max retries exceeded: {error}") from None
                await asyncio.sleep(self._settings.retry_seconds * 2 ** (attempt - 1))

    async def _chunk(self, download: Download, part: Part, url: str, file: int) -> None:
        """Ask for the rest of a part once. What came of it is kept when the connection ends, and when we are ended."""
        start, stop = part.offset + part.completed, part.offset + part.size
        got = 0
        try:
            async with asked("GET", url, {"Range": f"bytes={start}-{stop - 1}"}) as answer:
                async for data in self._pieces(answer, stop - start):
                    self._write(file, data, start + got)
                    got += len(data)
                    download.running += len(data)
        finally:
            download.running -= got
            part.completed += got
            with suppress(OSError):
                part.save(self._store.blob(download.digest))

    async def _pieces(self, answer: Answer, count: int) -> AsyncIterator[bytes]:
        while count:
            try:
                async with asyncio.timeout(self._settings.stall_seconds):
                    data = await answer.read(count)
            except TimeoutError:
                raise Stalled from None
            if not data:
                raise ConnectionError("unexpected EOF")
            count -= len(data[:count])
            yield data[:count] if count < 0 else data

    def _write(self, file: int, data: bytes, offset: int) -> None:
        if self._faults.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._faults.damage:
            data = bytes([data[0] ^ 0xFF]) + data[1:]
        os.pwrite(file, data, offset)

    async def _verify(self, digest: str) -> None:
        """Compare a blob with its name; one that differs is removed."""
        path, found = self._store.blob(digest), hashlib.sha256()
        for piece in _pieces_of(path):
            found.update(piece)
            await asyncio.sleep(0)
        if f"sha256:{found.hexdigest()}" != digest.replace("-", ":").lower():
            path.unlink()
            raise PullError(
                f"digest mismatch, file must be downloaded again: want {digest}, got sha256:{found.hexdigest()}"
            )

    async def close(self) -> None:
        """End what is running; it can be resumed."""
        tasks = [download.task for download in self.downloads.values() if download.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _saved_parts(blob: Path) -> list[Part]:
    found = []
    for path in blob.parent.glob(f"{blob.name}-partial-*"):
        value = json.loads(path.read_bytes())
        found.append(Part(value["N"], value["Offset"], value["Size"], value["Completed"]))
    return sorted(found, key=lambda part: part.number)


def _check(answer: Answer, body: bytes) -> None:
    if answer.status == 404:
        raise PullError("file does not exist")
    if answer.status >= 400:
        raise PullError(f"{answer.status}: {body.decode(errors='replace')}")
