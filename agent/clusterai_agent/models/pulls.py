"""Has Ollama fetch models, one at a time, and sees that what came is what was wanted."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clusterai.errors import ClusterAIError, Status
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import PullStatus
from clusterai_agent.models import answers
from clusterai_agent.models.desired import WantedModel, needed_bytes, normalised_tail
from clusterai_agent.models.ollama_api import OllamaApi
from clusterai_agent.models.ollama_errors import OllamaRefused

log = logging.getLogger(__name__)

_RETRY_SECONDS = (5.0, 600.0)
_DETAIL_LIMIT = 500
_UNKNOWN = "file does not exist"  # Ollama's words for a manifest that its source does not have
_VERIFYING = ("verifying", "writing", "removing")


class WrongDigest(ClusterAIError):
    code, status = "wrong-digest", Status.FAILED
    message = "what {source} has under the name {model} is not what the cluster has: {found} in place of {wanted}"
    hint = "on the server, `clusteractl model sync {model}` takes one of them for all nodes"

    def __init__(self, model: WantedModel, found: bytes) -> None:
        where = "the server" if model.from_mirror else "the registry"
        super().__init__(
            source=where, model=model.name, found=found.hex()[:12] or "nothing", wanted=model.digest.hex()[:12]
        )


class NotOffered(ClusterAIError):
    code, status = "not-offered", Status.NOT_FOUND
    message = "{source} has no model {model}"
    hint = "compare the name with https://ollama.com/library; `clusteractl model rm {model}` gives it up"


class NoSpace(ClusterAIError):
    code, status = "no-space", Status.EXHAUSTED
    message = "{model} needs {needed:.1f} GB of free disk, and there are {free:.1f} GB"
    hint = "make room where Ollama keeps its models, or remove one: `clusteractl model rm NAME`"

    def __init__(self, model: str, needed: int, free: int) -> None:
        super().__init__(model=model, needed=needed / 1e9, free=free / 1e9)


@dataclass
class _Failure:
    error: ClusterAIError
    count: int
    retry_at: float  # monotonic


def retry_seconds(count: int, chance: float) -> float:
    """Return how long to wait after the count-th failure in a row (from 1); chance in 0..1 spreads nodes."""
    return min(_RETRY_SECONDS[0] * 2.0 ** min(count - 1, 16), _RETRY_SECONDS[1]) * (0.5 + chance / 2)


class Pulls:
    """The fetch that runs, and those that failed. `free_bytes` returns 0 where the disk cannot be seen."""

    def __init__(
        self, api: Callable[[], OllamaApi], mirror_port: int, free_bytes: Callable[[], int], ended: Callable[[], None]
    ) -> None:
        self._api, self._mirror_port, self._free_bytes, self._ended = api, mirror_port, free_bytes, ended
        self._task: asyncio.Task[None] | None = None
        self._fetching: WantedModel | None = None
        self._status = PullStatus()
        self._failures: dict[WantedModel, _Failure] = {}

    @property
    def fetching(self) -> WantedModel | None:
        """What is being fetched."""
        return self._fetching

    @property
    def retry_at(self) -> Mapping[WantedModel, float]:
        """When each failed one is tried again, on the monotonic clock."""
        return {model: failure.retry_at for model, failure in self._failures.items()}

    def statuses(self) -> list[PullStatus]:
        """Return the running one and the failed ones."""
        running = [self._status] if self._fetching else []
        failed = (item for item in self._failures.items() if item[0] != self._fetching)
        return running + [_failed(model, failure) for model, failure in failed]

    def start(self, model: WantedModel) -> None:
        """Fetch this model from now on; none is being fetched."""
        assert self._fetching is None
        self._fetching = model
        self._status = self._now(types.PULL_STATE_PULLING)
        self._task = asyncio.create_task(self._fetch_and_note(model), name=f"fetch {model.name}")

    async def stop(self) -> None:
        """Stop fetching; Ollama keeps what it has for the next time."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def forget_all_but(self, wanted: Iterable[WantedModel]) -> None:
        """Forget the failures of what nobody wants any more, or has now."""
        keep = set(wanted)
        self._failures = {model: failure for model, failure in self._failures.items() if model in keep}

    async def _fetch_and_note(self, model: WantedModel) -> None:
        log.info("fetching model %s from %s", model.name, _from(model))
        try:
            await self._fetch(model)
        except ClusterAIError as error:
            count = self._failures[model].count + 1 if model in self._failures else 1
            pause = retry_seconds(count, random.random())  # noqa: S311  jitter
            log.error("model %s: %s; %s; trying again in %.0f s", model.name, str(error), error.advice, pause)
            self._failures[model] = _Failure(error, count, time.monotonic() + pause)
        else:
            log.info("model %s is here", model.name)
            self._failures.pop(model, None)
        finally:
            self._fetching = None
            self._ended()

    async def _fetch(self, model: WantedModel) -> None:
        """Fetch it, look at its digest, and give it its name."""
        api = self._api()
        mirrored = f"127.0.0.1:{self._mirror_port}/{normalised_tail(model.name)}"
        name = mirrored if model.from_mirror else model.name
        try:
            await self._pull(api, f"http://{name}" if model.from_mirror else name, model)
        except OllamaRefused as error:
            if _UNKNOWN not in str(error):
                raise
            source = "the server" if model.from_mirror else "the registry"
            raise NotOffered(source=source, model=model.name) from error
        self._status = self._now(types.PULL_STATE_VERIFYING)
        tags = answers.Tags(await api.get("/api/tags"), f"127.0.0.1:{self._mirror_port}")
        digest = tags.mirrored.get(name, b"")
        if not model.from_mirror and name in tags.models:
            digest = tags.models[name].digest
        good = bool(digest) and digest == (model.digest or digest)
        if model.from_mirror:
            if good:
                await api.copy(name, model.name)
            await api.delete(name)
        if not good:
            raise WrongDigest(model, digest)

    async def _pull(self, api: OllamaApi, name: str, model: WantedModel) -> None:
        files: dict[str, tuple[int, int]] = {}
        async with contextlib.aclosing(api.pull(name, insecure=model.from_mirror)) as said:  # type: ignore[type-var]
            async for step in said:
                if progress := answers.progress_of(step):
                    digest, completed, total = progress
                    if digest not in files:
                        self._check_space(model, total, total - completed)
                    files[digest] = completed, total
                self._progressed(str(step.get("status", "")), files)

    def _check_space(self, model: WantedModel, size: int, remaining: int) -> None:
        free, needed = self._free_bytes(), needed_bytes(remaining, size)
        if free and remaining and free < needed:
            raise NoSpace(model.name, needed, free)

    def _progressed(self, said: str, files: Mapping[str, tuple[int, int]]) -> None:
        state = types.PULL_STATE_VERIFYING if said.startswith(_VERIFYING) else types.PULL_STATE_PULLING
        self._status = self._now(
            state,
            completed_bytes=sum(completed for completed, _ in files.values()),
            total_bytes=sum(total for _, total in files.values()),
        )

    def _now(self, state: types.PullState, **values: Any) -> PullStatus:
        assert self._fetching is not None
        return _status(self._fetching, state=state, **values)


def waiting(model: WantedModel, reason: str) -> PullStatus:
    """Return the status of one that will be fetched later."""
    return _status(model, state=types.PULL_STATE_WAITING, reason=reason[:_DETAIL_LIMIT])


def _failed(model: WantedModel, failure: _Failure) -> PullStatus:
    pause = max(0, round(failure.retry_at - time.monotonic(), -1))
    reason = f"{failure.error}; tried {failure.count} time{'s' * (failure.count != 1)}, again within {pause + 10:.0f} s"
    hint = failure.error.advice[:_DETAIL_LIMIT]
    return _status(model, state=types.PULL_STATE_FAILED, reason=reason[:_DETAIL_LIMIT], hint=hint)


def _status(model: WantedModel, **values: Any) -> PullStatus:
    """The field `from` is a word of Python's."""
    return PullStatus(**{"model": model.name, "from": _from(model), **values})


def _from(model: WantedModel) -> str:
    return "server" if model.from_mirror else "registry"
