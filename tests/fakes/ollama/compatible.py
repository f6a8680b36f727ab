"""The APIs of others that Ollama speaks, /v1/…: OpenAI's, and Anthropic's messages."""

import json
import secrets
import time
from typing import Any

from fakes.http import HttpFault, Reply, Request
from fakes.ollama import bodies
from fakes.ollama.inference import Inference, Question, Told
from fakes.ollama.store import Model, Store

SSE = "text/event-stream"


class Events:
    """An answer of server-sent events."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def send(self, value: Any, event: str = "") -> None:
        """Send an event; a string is sent as it is."""
        if not self._reply.status:
            await self._reply.start(200, SSE)
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        await self._reply.send(f"{f'event: {event}' + chr(10) if event else ''}data: {data}\n\n".encode())

    async def end(self) -> None:
        """Finish."""
        await self._reply.end()


def openai_error(fault: HttpFault) -> HttpFault:
    """Return an error of Ollama's in OpenAI's shape."""
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    sentence = fault.body["error"] if isinstance(fault.body, dict) else str(fault.body)
    body = {"message": sentence, "type": kinds.get(fault.status, "api_error"), "param": None, "code": None}
    return HttpFault(fault.status, {"error": body}, fault.headers)


def anthropic_error(fault: HttpFault) -> HttpFault:
    """Return an error of Ollama's in Anthropic's shape."""
    kinds = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}
    sentence = fault.body["error"] if isinstance(fault.body, dict) else str(fault.body)
    body = {"type": kinds.get(fault.status, "api_error"), "message": sentence}
    return HttpFault(fault.status, {"type": "error", "error": body, "request_id": _id("req")}, fault.headers)


def _id(kind: str) -> str:
    return f"{kind}-{secrets.randbelow(1000)}"


def _usage(told: Told) -> dict[str, int]:
    total = told.prompt_tokens + told.output_tokens
    return {"prompt_tokens": told.prompt_tokens, "completion_tokens": told.output_tokens, "total_tokens": total}


def _options(body: dict[str, Any], *limits: str) -> dict[str, Any]:
    limit = next((body[name] for name in limits if body.get(name) is not None), None)
    return {} if limit is None else {"num_predict": limit}


def _format(body: dict[str, Any]) -> Any:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return wanted.get("json_schema", {}).get("schema")
    return "json" if wanted.get("type") == "json_object" else None


class OpenAi:
    """Handlers of /v1/… but /v1/messages."""

    def __init__(self, store: Store, inference: Inference) -> None:
        self._store, self._inference = store, inference

    async def chat(self, request: Request, reply: Reply) -> None:
        """POST /v1/chat/completions."""
        body = bodies.decoded(request)
        if not body.get("messages"):
            raise HttpFault(400, {"error": "[] is too short - 'messages'"})
        prompt = bodies.prompt_of(body["messages"])
        await self._complete(body, prompt, reply, _options(body, "max_completion_tokens", "max_tokens"), chat=True)

    async def completions(self, request: Request, reply: Reply) -> None:
        """POST /v1/completions."""
        body = bodies.decoded(request)
        prompt = body.get("prompt") or ""
        text = prompt if isinstance(prompt, str) else "\n".join(map(str, prompt))
        await self._complete(body, text, reply, _options(body, "max_tokens"), chat=False)

    async def _complete(
        self, body: dict[str, Any], prompt: str, reply: Reply, options: dict[str, Any], *, chat: bool
    ) -> None:
        model = bodies.model_name(body)
        question = Question(model, prompt, options, format=_format(body), stream=bool(body.get("stream")))
        told, kind = Told(), "chat.completion" if chat else "text_completion"
        head = {"id": _id("chatcmpl" if chat else "cmpl"), "object": kind, "created": int(time.time()), "model": model,
                "system_fingerprint": "fp_ollama"}  # fmt: skip
        if question.stream:
            await self._stream(question, told, Events(reply), head, body, chat=chat)
            return
        said = "".join([token async for token in self._inference.answer(question, told)])
        part = {"message": {"role": "assistant", "content": said}} if chat else {"text": said}
        choice = {"index": 0, **part, "finish_reason": told.reason}
        await reply.json(200, {**head, "choices": [choice], "usage": _usage(told)})

    async def _stream(
        self, question: Question, told: Told, events: Events, head: dict[str, Any], body: dict[str, Any], *, chat: bool
    ) -> None:
        head = {**head, "object": "chat.completion.chunk"} if chat else head

        def chunk(text: str, reason: str | None) -> dict[str, Any]:
            part = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
            return {**head, "choices": [{"index": 0, **part, "finish_reason": reason}]}

        try:
            async for token in self._inference.answer(question, told):
                await events.send(chunk(token, None))
        except HttpFault as fault:
            if not told.output_tokens:
                raise
            await events.send(openai_error(fault).body)
            await events.end()
            return
        await events.send(chunk("", told.reason))
        if (body.get("stream_options") or {}).get("include_usage"):
            await events.send({**head, "choices": [], "usage": _usage(told)})
        await events.send("[DONE]")
        await events.end()

    async def embeddings(self, request: Request, reply: Reply) -> None:
        """POST /v1/embeddings. Floats only, whichever encoding is asked for is honoured by base64 of 32-bit floats."""
        body = bodies.decoded(request)
        texts = body.get("input") or []
        texts = [texts] if isinstance(texts, str) else [str(text) for text in texts]
        if not texts:
            raise HttpFault(400, {"error": "invalid input"})
        told = Told()
        vectors = await self._inference.vectors(Question(bodies.model_name(body), ""), texts, told)
        encode = _base64 if body.get("encoding_format") == "base64" else list
        data = [{"object": "embedding", "embedding": encode(each), "index": n} for n, each in enumerate(vectors)]
        usage = {"prompt_tokens": told.prompt_tokens, "total_tokens": told.prompt_tokens}
        await reply.json(200, {"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def models(self, request: Request, reply: Reply) -> None:
        """GET /v1/models."""
        await reply.json(200, {"object": "list", "data": [_listed(model) for model in self._store.models()]})

    async def model(self, request: Request, reply: Reply) -> None:
        """GET /v1/models/:model."""
        name = request.path.removeprefix("/v1/models/")
        model = self._store.find(name)
        if model is None:
            raise HttpFault(404, {"error": f"model '{name}' not found"})
        await reply.json(200, _listed(model))

    async def responses(self, request: Request, reply: Reply) -> None:
        """POST /v1/responses."""
        body = bodies.decoded(request)
        given = body.get("input")
        prompt = given if isinstance(given, str) else bodies.prompt_of(given or [])
        question = Question(
            bodies.model_name(body), f"{body.get('instructions') or ''}{prompt}", _options(body, "max_output_tokens")
        )
        told = Told()
        base: dict[str, Any] = {"id": _id("resp"), "object": "response", "created_at": int(time.time()),
                "model": question.model, "error": None, "incomplete_details": None,
                "instructions": body.get("instructions"), "metadata": {},
                "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [],
                "top_p": 1.0}  # fmt: skip
        if body.get("stream"):
            await self._stream_response(question, told, Events(reply), base)
            return
        said = "".join([token async for token in self._inference.answer(question, told)])
        await reply.json(200, {**base, "status": "completed", "output": [_message(said)], "usage": _used(told)})

    async def _stream_response(self, question: Question, told: Told, events: Events, base: dict[str, Any]) -> None:
        number, said = 0, ""

        async def send(kind: str, **more: Any) -> None:
            nonlocal number
            await events.send({"type": kind, "sequence_number": number, **more}, kind)
            number += 1

        place: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        async for token in self._inference.answer(question, told):
            if not said:
                empty = {**base, "status": "in_progress", "output": []}
                await send("response.created", response=empty)
                await send("response.in_progress", response=empty)
                item = {**_message(""), "status": "in_progress", "content": []}
                await send("response.output_item.added", output_index=0, item=item)
                await send("response.content_part.added", **place, part=_part(""))
            said += token
            await send("response.output_text.delta", **place, delta=token, logprobs=[])
        await send("response.output_text.done", **place, text=said, logprobs=[])
        await send("response.content_part.done", **place, part=_part(said))
        await send("response.output_item.done", output_index=0, item=_message(said))
        whole = {**base, "status": "completed", "output": [_message(said)], "usage": _used(told)}
        await send("response.completed", response=whole)
        await events.end()


def _listed(model: Model) -> dict[str, Any]:
    created = int(model.modified.timestamp())
    return {"id": str(model.name), "object": "model", "created": created, "owned_by": model.name.namespace}


def _base64(vector: list[float]) -> str:
    import base64
    import struct

    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(text: str) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [_part(text)]}


def _used(told: Told) -> dict[str, Any]:
    return {
        "input_tokens": told.prompt_tokens, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": told.output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": told.prompt_tokens + told.output_tokens,
    }  # fmt: skip


class Anthropic:
    """Handler of /v1/messages."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def messages(self, request: Request, reply: Reply) -> None:
        """POST /v1/messages."""
        body = bodies.decoded(request)
        prompt = f"{bodies.text_of(body.get('system'))}\n{bodies.prompt_of(body.get('messages') or [])}"
        question = Question(bodies.model_name(body), prompt, _options(body, "max_tokens"))
        told = Told()
        head = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": question.model}
        if body.get("stream"):
            await self._stream(question, told, Events(reply), head)
            return
        said = "".join([token async for token in self._inference.answer(question, told)])
        usage = {"input_tokens": told.prompt_tokens, "output_tokens": told.output_tokens}
        content = [{"type": "text", "text": said}]
        await reply.json(200, {**head, "content": content, "stop_reason": _stop(told), "usage": usage})

    async def _stream(self, question: Question, told: Told, events: Events, head: dict[str, Any]) -> None:
        async def send(kind: str, **more: Any) -> None:
            await events.send({"type": kind, **more}, kind)

        async for token in self._inference.answer(question, told):
            if told.output_tokens == 1:
                usage = {"input_tokens": told.prompt_tokens, "output_tokens": 0}
                await send("message_start", message={**head, "content": [], "stop_reason": None, "usage": usage})
                await send("content_block_start", index=0, content_block={"type": "text", "text": ""})
            await send("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
        await send("content_block_stop", index=0)
        usage = {"input_tokens": told.prompt_tokens, "output_tokens": told.output_tokens}
        await send("message_delta", delta={"stop_reason": _stop(told), "stop_sequence": None}, usage=usage)
        await send("message_stop")
        await events.end()


def _stop(told: Told) -> str:
    return "max_tokens" if told.reason == "length" else "end_turn"
