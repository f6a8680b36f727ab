"""Which models are in memory: loading one at a time, a bounded queue, slots, keep-alive, eviction."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fakes.http import HttpFault
from fakes.ollama.faults import Faults
from fakes.ollama.settings import Settings
from fakes.ollama.store import Model

BUSY = "server busy, please try again.  maximum pending requests exceeded"
_FOR_EVER = timedelta(days=292 * 365)
_RELOADING = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")


@dataclass(eq=False)
class Runner:
    """A loaded model."""

    model: Model
    options: tuple[tuple[str, Any], ...]
    context: int
    size: int
    size_vram: int
    slots: asyncio.Semaphore
    keep_alive: float
    users: int = 0
    expires: float = math.inf
    timer: asyncio.TimerHandle | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def expires_at(self) -> datetime:
        """When it is unloaded, for a person's clock."""
        left = self.keep_alive if self.users else self.expires - time.monotonic()
        return datetime.now(UTC) + (timedelta(seconds=left) if left < math.inf else _FOR_EVER)


class Scheduler:
    """Hands out runners."""

    def __init__(self, settings: Settings, faults: Faults) -> None:
        self._settings, self._faults = settings, faults
        self._loaded: dict[str, Runner] = {}
        self._loading = asyncio.Lock()
        self._pending = 0
        self.loads = 0

    @property
    def runners(self) -> list[Runner]:
        """What is in memory, the longest-lived first."""
        return sorted(self._loaded.values(), key=lambda runner: runner.expires_at(), reverse=True)

    @asynccontextmanager
    async def runner(self, model: Model, options: dict[str, Any], keep_alive: float | None) -> AsyncIterator[Runner]:
        """Yield a runner of the model with a free slot in it; loads it when need be."""
        runner = await self._found(model, options)
        runner.keep_alive = self._settings.keep_alive if keep_alive is None else keep_alive
        try:
            async with runner.slots:
                yield runner
        finally:
            self._release(runner)

    async def _found(self, model: Model, options: dict[str, Any]) -> Runner:
        """Return a runner, used by the caller from now on. Only who has to wait for a load counts for the queue."""
        if runner := self._fitting(model, options):
            return self._use(runner)
        if self._pending > self._settings.max_queue:
            raise HttpFault(503, {"error": BUSY})
        self._pending += 1
        try:
            async with self._loading:
                return self._use(self._fitting(model, options) or await self._load(model, options))
        finally:
            self._pending -= 1

    def _fitting(self, model: Model, options: dict[str, Any]) -> Runner | None:
        runner = self._loaded.get(model.weights)
        return runner if runner and runner.options == _wanted(model, options) else None

    def _use(self, runner: Runner) -> Runner:
        runner.users += 1
        runner.idle.clear()
        if runner.timer:
            runner.timer.cancel()
        return runner

    def _release(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users or self._loaded.get(runner.model.weights) is not runner:
            runner.idle.set()
            return
        runner.idle.set()
        runner.expires = time.monotonic() + runner.keep_alive
        if runner.keep_alive <= 0:
            self._unload(runner)
        elif runner.keep_alive < math.inf:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.keep_alive, self._unload, runner)

    async def _load(self, model: Model, options: dict[str, Any]) -> Runner:
        if old := self._loaded.get(model.weights):
            await self._evict(old)
        context, size = self._needs(model, options)
        while len(self._loaded) >= self._settings.max_loaded or (self._loaded and not self._fits(size)):
            await self._evict(min(self._loaded.values(), key=lambda runner: (runner.users > 0, runner.expires)))
        await asyncio.sleep(self._faults.load_seconds)
        if self._faults.load_error:
            raise HttpFault(500, {"error": self._faults.load_error})
        self.loads += 1
        slots = 1 if "embedding" in model.capabilities else self._settings.parallel
        vram = min(size, max(0, self._settings.vram - sum(each.size_vram for each in self._loaded.values())))
        runner = Runner(
            model, _wanted(model, options), context, size, vram, asyncio.Semaphore(slots), self._settings.keep_alive
        )
        self._loaded[model.weights] = runner
        return runner

    def _needs(self, model: Model, options: dict[str, Any]) -> tuple[int, int]:
        """Return context and memory: weights, and keys and values of 2 bytes for each place in the context."""
        facts = model.facts
        arch = facts.get("general.architecture", "")

        def fact(name: str, default: int) -> int:
            return int(facts.get(f"{arch}.{name}") or default)

        asked = dict(_wanted(model, options)).get("num_ctx") or self._settings.context
        context = min(int(asked), fact("context_length", 1 << 40))
        heads = fact("attention.head_count", 1)
        dimension = fact("attention.key_length", fact("embedding_length", 0) // heads)
        cache = 2 * 2 * fact("block_count", 0) * fact("attention.head_count_kv", 1) * dimension
        return context, model.size + cache * context * self._settings.parallel

    def _fits(self, size: int) -> bool:
        free = self._settings.vram - sum(each.size_vram for each in self._loaded.values())
        return not self._settings.vram or size <= free

    async def _evict(self, runner: Runner) -> None:
        """Unload as soon as nobody uses it."""
        while runner.users:
            runner.idle.clear()
            await runner.idle.wait()
        self._unload(runner)

    def _unload(self, runner: Runner) -> None:
        if runner.timer:
            runner.timer.cancel()
        if self._loaded.get(runner.model.weights) is runner:
            del self._loaded[runner.model.weights]

    async def unload(self, model: Model) -> None:
        """Take a model out of memory when its requests have ended."""
        if runner := self._loaded.get(model.weights):
            runner.keep_alive = 0
            if not runner.users:
                self._unload(runner)

    def close(self) -> None:
        """Forget all."""
        for runner in list(self._loaded.values()):
            with suppress(KeyError):
                self._unload(runner)


def _wanted(model: Model, options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The options that need a runner of their own where they differ; what is not set is no difference."""
    every = {**model.parameters, **options}
    return tuple((name, every[name]) for name in _RELOADING if every.get(name) is not None)
