"""Ollama's own API, /api/…."""

import hashlib
import json
from typing import Any

from fakes.http import HttpFault, Reply, Request
from fakes.ollama import bodies
from fakes.ollama.faults import Faults
from fakes.ollama.inference import Inference, Question, Told
from fakes.ollama.names import is_digest
from fakes.ollama.pull import Puller, PullError
from fakes.ollama.scheduler import Scheduler
from fakes.ollama.settings import Settings
from fakes.ollama.store import Model, Store

NDJSON = "application/x-ndjson"


class Lines:
    """An answer of JSON lines. An error after the first line becomes a line, as the status is sent already."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def send(self, value: dict[str, Any]) -> None:
        """Send a line."""
        if not self._reply.status:
            await self._reply.start(200, NDJSON)
        await self._reply.send(json.dumps(value, ensure_ascii=False).encode() + b"\n")

    async def fail(self, fault: HttpFault) -> None:
        """Report what went wrong."""
        if not self._reply.status:
            raise fault
        await self.send(fault.body)
        await self._reply.end()


class Native:
    """Handlers of /api/…."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        scheduler: Scheduler,
        inference: Inference,
        puller: Puller,
        faults: Faults,
    ) -> None:
        self._settings, self._store, self._scheduler = settings, store, scheduler
        self._inference, self._puller, self._faults = inference, puller, faults

    async def version(self, request: Request, reply: Reply) -> None:
        """GET /api/version."""
        await reply.json(200, {"version": self._settings.version})

    def _claimed_digest(self, model: Model) -> str:
        return self._faults.digests.get(str(model.name), model.digest)

    async def tags(self, request: Request, reply: Reply) -> None:
        """GET /api/tags."""
        shown = [model for model in self._store.models() if str(model.name) not in self._faults.hidden]
        entries = [
            {"name": str(model.name), "model": str(model.name), "modified_at": bodies.stamp(model.modified),
             "size": model.size, "digest": self._claimed_digest(model), "details": model.details(),
             "capabilities": model.capabilities}
            for model in shown
        ]  # fmt: skip
        entries += [
            {"name": name, "model": name, "modified_at": bodies.now(), "size": 1 << 30,
             "digest": self._faults.digests.get(name, hashlib.sha256(name.encode()).hexdigest()),
             "details": {"format": "gguf", "family": "llama"}}
            for name in self._faults.ghosts
        ]  # fmt: skip
        await reply.json(200, {"models": entries})

    async def ps(self, request: Request, reply: Reply) -> None:
        """GET /api/ps."""
        entries = [
            {"name": str(runner.model.name), "model": str(runner.model.name), "size": runner.size,
             "digest": self._claimed_digest(runner.model), "details": runner.model.details(),
             "expires_at": bodies.stamp(runner.expires_at()), "size_vram": runner.size_vram,
             "context_length": self._faults.context_length or runner.context}
            for runner in self._scheduler.runners
        ]  # fmt: skip
        await reply.json(200, {"models": entries})

    async def show(self, request: Request, reply: Reply) -> None:
        """POST /api/show."""
        body = bodies.decoded(request)
        name = bodies.model_name(body, "name")
        model = self._store.find(name)
        if model is None:
            raise HttpFault(404, {"error": f"model '{name}' not found"})
        facts = {key: value for key, value in model.facts.items() if not key.startswith("fake.")}
        parameters = "\n".join(f"{key:30} {json.dumps(value)}" for key, value in model.parameters.items())
        told = {
            "license": model.license, "modelfile": f"FROM {self._store.blob(model.weights)}\n",
            "parameters": parameters, "template": model.template, "details": model.details(), "model_info": facts,
            "capabilities": model.capabilities, "modified_at": bodies.stamp(model.modified),
        }  # fmt: skip
        await reply.json(200, {key: value for key, value in told.items() if value != ""})

    async def generate(self, request: Request, reply: Reply) -> None:
        """POST /api/generate."""
        body = bodies.decoded(request)
        prompt = "\n".join(str(body[part]) for part in ("system", "prompt", "suffix") if body.get(part))
        await self._say(body, prompt, reply, chat=False)

    async def chat(self, request: Request, reply: Reply) -> None:
        """POST /api/chat."""
        body = bodies.decoded(request)
        await self._say(body, bodies.prompt_of(body.get("messages") or []), reply, chat=True)

    async def _say(self, body: dict[str, Any], prompt: str, reply: Reply, *, chat: bool) -> None:
        question = Question(
            bodies.model_name(body), prompt, bodies.options(body), bodies.keep_alive(body), body.get("format"),
            body.get("stream") is not False,
        )  # fmt: skip
        told, lines, said = Told(), Lines(reply), []

        def line(text: str, **more: Any) -> dict[str, Any]:
            part = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
            return {"model": question.model, "created_at": bodies.now(), **part, "done": False, **more}

        if not prompt:
            model = self._inference.model(question.model, "")
            await self._inference.load(model, question.options, question.keep_alive)
            reason = "unload" if question.keep_alive == 0 else "load"
            await reply.json(200, line("", done=True, done_reason=reason))
            return
        try:
            async for token in self._inference.answer(question, told):
                said.append(token)
                if question.stream:
                    await lines.send(line(token))
        except HttpFault as fault:
            await lines.fail(fault)
            return
        context = {} if chat else {"context": list(range(told.prompt_tokens + told.output_tokens))}
        last = line("" if question.stream else "".join(said), done=True, done_reason=told.reason)
        last = {**last, **context, **told.metrics()}
        if question.stream:
            await lines.send(last)
            await reply.end()
        else:
            await reply.json(200, last)

    async def embed(self, request: Request, reply: Reply) -> None:
        """POST /api/embed."""
        body = bodies.decoded(request)
        texts = body.get("input") or []
        texts = [texts] if isinstance(texts, str) else list(texts)
        question = Question(bodies.model_name(body), "", bodies.options(body), bodies.keep_alive(body))
        told = Told()
        vectors = await self._inference.vectors(question, [str(text) for text in texts], told)
        figures = {"total_duration": told.ended - told.began, "load_duration": told.loaded - told.began}
        answer = {"model": question.model, "embeddings": vectors, **figures, "prompt_eval_count": told.prompt_tokens}
        await reply.json(200, answer)

    async def embeddings(self, request: Request, reply: Reply) -> None:
        """POST /api/embeddings, the older one."""
        body = bodies.decoded(request)
        question = Question(bodies.model_name(body), "", bodies.options(body), bodies.keep_alive(body))
        vectors = await self._inference.vectors(question, [str(body.get("prompt") or "")], Told())
        await reply.json(200, {"embedding": vectors[0] if body.get("prompt") else []})

    async def copy(self, request: Request, reply: Reply) -> None:
        """POST /api/copy."""
        body = bodies.decoded(request)
        source, target = (bodies.checked_name(str(body.get(part) or "")) for part in ("source", "destination"))
        model = self._store.find(str(body["source"]))
        if model is None:
            raise HttpFault(404, {"error": f'model "{source}" not found'})
        self._store.write(self._store.existing(target), model.raw)
        await reply.whole(200, b"", "text/plain")

    async def delete(self, request: Request, reply: Reply) -> None:
        """DELETE /api/delete."""
        body = bodies.decoded(request)
        name = bodies.checked_name(bodies.model_name(body, "name"))
        model = self._store.find(bodies.model_name(body, "name"))
        if model is None:
            raise HttpFault(404, {"error": f"model '{name}' not found"})
        self._store.delete(model)
        await reply.whole(200, b"", "text/plain")

    async def pull(self, request: Request, reply: Reply) -> None:
        """POST /api/pull."""
        body = bodies.decoded(request)
        name = bodies.checked_name(bodies.model_name(body, "name"))
        streaming, lines = body.get("stream") is not False, Lines(reply)

        async def tell(line: dict[str, Any]) -> None:
            if streaming:
                await lines.send(line)

        try:
            await self._puller.pull(name, insecure=bool(body.get("insecure")), tell=tell)
        except PullError as error:
            await lines.fail(HttpFault(500, {"error": str(error)}))
            return
        if streaming:
            await reply.end()
        else:
            await reply.json(200, {"status": "success"})

    async def has_blob(self, request: Request, reply: Reply) -> None:
        """HEAD /api/blobs/:digest."""
        path = self._store.blob(_digest_in(request))
        await reply.whole(200 if path.exists() else 404, b"", "text/plain")

    async def put_blob(self, request: Request, reply: Reply) -> None:
        """POST /api/blobs/:digest."""
        digest = _digest_in(request)
        found = f"sha256:{hashlib.sha256(request.body).hexdigest()}"
        if found != digest:
            raise HttpFault(400, {"error": f'digest mismatch, expected "{digest}", got "{found}"'})
        path = self._store.blob(digest)
        if not path.exists():
            path.write_bytes(request.body)
            await reply.whole(201, b"", "text/plain")
        else:
            await reply.whole(200, b"", "text/plain")

    async def refused(self, request: Request, reply: Reply) -> None:
        """What this double does not do: push, create."""
        raise HttpFault(501, {"error": f"the test double of Ollama does not do {request.path}"})


def _digest_in(request: Request) -> str:
    digest = request.path.rpartition("/")[2]
    if not is_digest(digest):
        raise HttpFault(400, {"error": "invalid digest format"})
    return digest
