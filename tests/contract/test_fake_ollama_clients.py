"""The double, driven by the clients that people use: `ollama` and `openai` from PyPI. What they refuse is no Ollama."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes.ollama import FakeOllama, fake_ollama
from fakes.registry import FakeRegistry, make_model
from support.chat_clients import with_clients

LLAMA, EMBEDDER = make_model(), make_model("nomic-embed-text", architecture="nomic-bert", embeds=True, embedding=64)
OPENAI = "import os, openai\nclient = openai.OpenAI(api_key='x', max_retries=0)\n"
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[FakeOllama]:
    EMBEDDER.install(tmp_path)
    LLAMA.install(tmp_path)
    async with AsyncExitStack() as parts:
        registry = await parts.enter_async_context(FakeRegistry([make_model("tiny", 5_000)]))
        yield await parts.enter_async_context(fake_ollama(tmp_path, FAKE_OLLAMA_REGISTRY=registry.url))


async def by_ollama(ollama: FakeOllama, script: str) -> Any:
    return await with_clients(f"import ollama\nclient = ollama.Client()\n{script}", OLLAMA_HOST=ollama.url)


async def by_openai(ollama: FakeOllama, script: str) -> Any:
    return await with_clients(OPENAI + script, OPENAI_BASE_URL=f"{ollama.url}/v1")


async def test_ollama_lists_shows_and_sees_what_is_loaded(served: FakeOllama) -> None:
    said = await by_ollama(served, """
client.generate("llama3.2:3b", "", keep_alive="1h")
(running,) = client.ps().models
say({"models": sorted(m.model for m in client.list().models), "digest": client.list().models[0].digest,
     "info": client.show("llama3.2:3b").modelinfo, "running": running.model, "context": running.context_length,
     "capabilities": client.show("llama3.2:3b").capabilities})
""")  # fmt: skip
    assert said["models"] == ["llama3.2:3b", "nomic-embed-text:latest"]
    assert said["digest"] == LLAMA.digest
    assert said["info"]["llama.block_count"] == 28
    assert said["capabilities"] == ["completion", "tools"]
    assert (said["running"], said["context"]) == ("llama3.2:3b", 4096)


async def test_ollama_generates_and_chats(served: FakeOllama) -> None:
    said = await by_ollama(served, f"""
parts = list(client.chat("llama3.2:3b", {MESSAGES}, stream=True))
whole = client.chat("llama3.2:3b", {MESSAGES})
generated = list(client.generate("llama3.2:3b", "Why?", stream=True))
say({{"streamed": "".join(p.message.content for p in parts), "whole": whole.message.content,
     "done": [p.done for p in parts], "count": whole.eval_count, "duration": whole.total_duration,
     "generated": "".join(p.response for p in generated)}})
""")  # fmt: skip
    assert said["streamed"] == said["whole"]
    assert said["done"] == [False] * 12 + [True]
    assert said["count"] == 12
    assert said["duration"] > 0
    assert said["generated"]


async def test_ollama_embeds(served: FakeOllama) -> None:
    said = await by_ollama(served, """
say([len(v) for v in client.embed("nomic-embed-text", ["a", "b"]).embeddings]
    + [len(client.embeddings("nomic-embed-text", "a").embedding)])
""")  # fmt: skip
    assert said == [64, 64, 64]


async def test_ollama_pulls_copies_and_deletes(served: FakeOllama) -> None:
    said = await by_ollama(served, """
steps = [p.status for p in client.pull("tiny", stream=True)]
client.copy("tiny", "other")
client.delete("tiny")
say([steps[0], steps[-1], sorted(m.model for m in client.list().models)])
""")  # fmt: skip
    assert said == ["pulling manifest", "success", ["llama3.2:3b", "nomic-embed-text:latest", "other:latest"]]


async def test_ollama_raises_what_the_real_one_says(served: FakeOllama) -> None:
    said = await by_ollama(served, f"""
try:
    client.chat("missing", {MESSAGES})
except ollama.ResponseError as error:
    say([error.status_code, error.error])
""")  # fmt: skip
    assert said == [404, 'model "missing" not found, try pulling it first']
    served.faults.error_after_tokens = 2
    said = await by_ollama(served, f"""
said = []
try:
    for part in client.chat("llama3.2:3b", {MESSAGES}, stream=True):
        said.append(part.message.content)
except ollama.ResponseError as error:
    say([len(said), error.error])
""")  # fmt: skip
    assert said == [2, "an error was encountered while running the model: unexpected EOF"]


async def test_openai_chats_and_counts(served: FakeOllama) -> None:
    said = await by_openai(served, f"""
make = client.chat.completions.create
chunks = list(make(model="llama3.2:3b", messages={MESSAGES}, stream=True, stream_options={{"include_usage": True}}))
whole = make(model="llama3.2:3b", messages={MESSAGES}, max_tokens=5)
say({{"streamed": "".join(c.choices[0].delta.content for c in chunks if c.choices),
     "reasons": [c.choices[0].finish_reason for c in chunks if c.choices],
     "usage": chunks[-1].usage.model_dump(), "whole": whole.choices[0].message.content,
     "reason": whole.choices[0].finish_reason, "tokens": whole.usage.completion_tokens}})
""")  # fmt: skip
    assert said["streamed"].startswith(said["whole"])
    assert said["reasons"] == [None] * 12 + ["stop"]
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + 12
    assert (said["reason"], said["tokens"]) == ("length", 5)


async def test_openai_completes_embeds_and_lists(served: FakeOllama) -> None:
    said = await by_openai(served, """
completion = client.completions.create(model="llama3.2:3b", prompt="Why?")
streamed = client.completions.create(model="llama3.2:3b", prompt="Why?", stream=True)
vectors = client.embeddings.create(model="nomic-embed-text", input=["a", "b"]).data
floats = client.embeddings.create(model="nomic-embed-text", input="a", encoding_format="float").data
say({"text": completion.choices[0].text, "streamed": "".join(c.choices[0].text for c in streamed),
     "close": max(abs(a - b) for a, b in zip(vectors[0].embedding, floats[0].embedding)),
     "lengths": [len(v.embedding) for v in vectors], "models": sorted(m.id for m in client.models.list()),
     "one": client.models.retrieve("llama3.2:3b").owned_by})
""")  # fmt: skip
    assert said["text"] == said["streamed"]
    assert said["lengths"] == [64, 64]
    assert said["close"] < 1e-6
    assert said["models"] == ["llama3.2:3b", "nomic-embed-text:latest"]
    assert said["one"] == "library"


async def test_openai_responds(served: FakeOllama) -> None:
    said = await by_openai(served, """
whole = client.responses.create(model="llama3.2:3b", input="Why?")
with client.responses.stream(model="llama3.2:3b", input="Why?") as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response()
say({"whole": whole.output_text, "final": final.output_text, "kinds": [kinds[0], kinds[-1]],
     "tokens": whole.usage.output_tokens})
""")  # fmt: skip
    assert said["whole"] == said["final"]
    assert said["kinds"] == ["response.created", "response.completed"]
    assert said["tokens"] == 12


async def test_openai_raises_the_class_that_belongs_to_the_status(served: FakeOllama) -> None:
    said = await by_openai(served, f"""
def failure(model):
    try:
        client.chat.completions.create(model=model, messages={MESSAGES})
    except openai.APIStatusError as error:
        return [type(error).__name__, error.message]
say([failure("missing"), failure("nomic-embed-text")])
""")  # fmt: skip
    (missing, sentence), (unable, _) = said
    assert missing == "NotFoundError"
    assert 'model "missing" not found' in sentence
    assert unable == "BadRequestError"


async def test_anthropic_s_shape_of_messages(served: FakeOllama) -> None:
    """By hand: its client is not among the tools."""
    said = await with_clients(f"""
import httpx, os
body = {{"model": "llama3.2:3b", "max_tokens": 100, "messages": {MESSAGES}}}
whole = httpx.post(os.environ["BASE"] + "/v1/messages", json=body).json()
lines = httpx.post(os.environ["BASE"] + "/v1/messages", json={{**body, "stream": True}}).text.splitlines()
say([whole, [line.removeprefix("event: ") for line in lines if line.startswith("event: ")],
     [json.loads(line[6:]) for line in lines if line.startswith("data: ")]])
""", BASE=served.url)  # fmt: skip
    whole, kinds, events = said
    assert (whole["type"], whole["role"], whole["stop_reason"]) == ("message", "assistant", "end_turn")
    assert whole["usage"]["output_tokens"] == 12
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
