"""The double as a whole: routes, checks, records."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from fakes.http import HttpFault, HttpServer, Reply, Request
from fakes.ollama.compatible import Anthropic, OpenAi, anthropic_error, openai_error
from fakes.ollama.faults import ControlFile, Faults
from fakes.ollama.hosts import host_allowed, origin_allowed
from fakes.ollama.inference import Inference
from fakes.ollama.native import Native
from fakes.ollama.pull import Puller
from fakes.ollama.scheduler import Scheduler
from fakes.ollama.settings import Settings
from fakes.ollama.store import Store

_KEPT = 10_000
_Handler = Callable[[Request, Reply], Awaitable[None]]


@dataclass(frozen=True)
class Seen:
    """A request that came: what tests look at. `aborted`: the client went before the answer was whole."""

    method: str
    path: str
    model: str
    headers: dict[str, str]
    status: int
    sent: int
    aborted: bool


class FakeOllama:
    """A server that speaks as Ollama does: `async with FakeOllama(Settings.of({...})) as ollama`.

    `faults` may be changed at any time; `requests` and `aborts` are what it has seen.
    """

    def __init__(self, settings: Settings, faults: Faults | None = None) -> None:
        self.settings, self.faults = settings, faults or Faults()
        self.store = Store(settings.models)
        self.scheduler = Scheduler(settings, self.faults)
        self.puller = Puller(settings, self.store, self.faults)
        self.requests: deque[Seen] = deque(maxlen=_KEPT)
        self.pruned: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self._control = ControlFile(settings.control, self.faults)
        self._http = HttpServer(self._handle, settings.host, settings.port, self._aborted)
        inference = Inference(self.store, self.scheduler, self.faults)
        native = Native(settings, self.store, self.scheduler, inference, self.puller, self.faults)
        self._routes = _routes(native, OpenAi(self.store, inference), Anthropic(inference))

    async def __aenter__(self) -> Self:
        """Prune, then listen."""
        self.store.create()
        if not self.settings.no_prune:
            self.pruned = self.store.prune()
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.__aexit__(*error)
        await self.puller.close()
        self.scheduler.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._http.port

    @property
    def url(self) -> str:
        """Its address, as a client's OLLAMA_HOST."""
        return f"http://{self._http.authority}"

    @property
    def aborts(self) -> list[Seen]:
        """The requests whose clients went away."""
        return [seen for seen in self.requests if seen.aborted]

    async def _handle(self, request: Request, reply: Reply) -> None:
        if request.path.startswith("/fake/"):
            await self._controlled(request, reply)
            return
        self._control.look()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._answer(request, reply)
        except HttpFault as fault:
            self._note(request, fault.status, reply.sent, aborted=False)
            raise self._in_dialect(request.path, fault) from None
        except asyncio.CancelledError:
            raise  # the client is gone, or the server ends
        else:
            self._note(request, reply.status, reply.sent, aborted=False)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: Request, reply: Reply) -> None:
        await self._misbehave(request, reply)
        if reply.status:
            return
        host = request.headers.get("host", "")
        if not host_allowed(host, self.settings.host):
            raise HttpFault(403, "")
        if not origin_allowed(request.headers.get("origin", ""), host, self.settings.origins):
            raise HttpFault(403, "")
        await self._route(request)(request, reply)

    async def _misbehave(self, request: Request, reply: Reply) -> None:
        if self.faults.hangs(request.path):
            await asyncio.Event().wait()
        if status := self.faults.refusal(request.path):
            headers = {"Retry-After": str(self.faults.retry_after)} if self.faults.retry_after else {}
            raise HttpFault(status, {"error": f"refused with {status}, as told"}, headers)
        if self.faults.garbles(request.path):
            await reply.whole(200, self.faults.nonsense.encode(), "application/json")

    def _route(self, request: Request) -> _Handler:
        path = request.path
        for prefix in ("/api/blobs/", "/v1/models/"):
            if path.startswith(prefix) and len(path) > len(prefix):
                path = f"{prefix}*"
        methods = self._routes.get(path)
        if methods is None:
            raise HttpFault(404, "404 page not found")
        if request.method not in methods:
            raise HttpFault(405, "405 method not allowed")
        return methods[request.method]

    @staticmethod
    def _in_dialect(path: str, fault: HttpFault) -> HttpFault:
        if not isinstance(fault.body, dict) or not path.startswith("/v1/"):
            return fault
        return anthropic_error(fault) if path == "/v1/messages" else openai_error(fault)

    def _aborted(self, request: Request, reply: Reply) -> None:
        if not request.path.startswith("/fake/"):
            self._note(request, reply.status, reply.sent, aborted=True)

    def _note(self, request: Request, status: int, sent: int, *, aborted: bool) -> None:
        seen = Seen(request.method, request.path, _model_in(request), request.headers, status, sent, aborted)
        self.requests.append(seen)

    async def _controlled(self, request: Request, reply: Reply) -> None:
        """The double's own paths: GET /fake/state, POST /fake/faults (JSON of what to change), DELETE /fake/faults."""
        if request.path == "/fake/faults" and request.method == "DELETE":
            self.faults.clear()
        elif request.path == "/fake/faults" and request.method == "POST":
            try:
                self.faults.set(json.loads(request.body))
            except ValueError as error:
                raise HttpFault(400, {"error": str(error)}) from None
        elif request.path != "/fake/state":
            raise HttpFault(404, "404 page not found")
        await reply.json(200, self.state())

    def state(self) -> dict[str, Any]:
        """What GET /fake/state tells."""
        return {
            "faults": asdict(self.faults), "in_flight": self.in_flight, "loads": self.scheduler.loads,
            "environment": dict(self.settings.environment), "pruned": self.pruned,
            "requests": [asdict(seen) for seen in list(self.requests)[-100:]],
            "aborts": [asdict(seen) for seen in self.aborts],
        }  # fmt: skip


def _model_in(request: Request) -> str:
    try:
        value = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        return ""
    return str(value.get("model") or value.get("name") or "") if isinstance(value, dict) else ""


async def _running(request: Request, reply: Reply) -> None:
    await reply.text(200, "Ollama is running")


def _routes(native: Native, openai: OpenAi, anthropic: Anthropic) -> dict[str, dict[str, _Handler]]:
    def read(handler: _Handler) -> dict[str, _Handler]:
        return {"GET": handler, "HEAD": handler}

    return {
        "/": read(_running),
        "/api/version": read(native.version),
        "/api/tags": read(native.tags),
        "/api/ps": {"GET": native.ps},
        "/api/show": {"POST": native.show},
        "/api/generate": {"POST": native.generate},
        "/api/chat": {"POST": native.chat},
        "/api/embed": {"POST": native.embed},
        "/api/embeddings": {"POST": native.embeddings},
        "/api/pull": {"POST": native.pull},
        "/api/push": {"POST": native.refused},
        "/api/create": {"POST": native.refused},
        "/api/copy": {"POST": native.copy},
        "/api/delete": {"DELETE": native.delete},
        "/api/blobs/*": {"HEAD": native.has_blob, "POST": native.put_blob},
        "/v1/chat/completions": {"POST": openai.chat},
        "/v1/completions": {"POST": openai.completions},
        "/v1/embeddings": {"POST": openai.embeddings},
        "/v1/responses": {"POST": openai.responses},
        "/v1/models": {"GET": openai.models},
        "/v1/models/*": {"GET": openai.model},
        "/v1/messages": {"POST": anthropic.messages},
    }
