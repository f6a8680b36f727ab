"""One question, one answer, token by token: what every way of asking has in common."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fakes.http import Cut, HttpFault
from fakes.ollama import speech
from fakes.ollama.faults import Faults
from fakes.ollama.scheduler import Scheduler
from fakes.ollama.store import Model, Store


@dataclass
class Question:
    """What a model is asked, in whichever dialect it came."""

    model: str
    prompt: str
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    format: Any = None
    stream: bool = True


@dataclass
class Told:
    """What is known when the answer is whole. Times in nanoseconds."""

    began: int = field(default_factory=time.perf_counter_ns)
    loaded: int = 0
    first: int = 0
    ended: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    reason: str = "stop"

    def metrics(self) -> dict[str, Any]:
        """The figures of Ollama's last line."""
        return {
            "total_duration": self.ended - self.began, "load_duration": self.loaded - self.began,
            "prompt_eval_count": self.prompt_tokens, "prompt_eval_duration": max(1, self.first - self.loaded),
            "eval_count": self.output_tokens, "eval_duration": max(1, self.ended - self.first),
        }  # fmt: skip


class Inference:
    """Answers questions with loaded models."""

    def __init__(self, store: Store, scheduler: Scheduler, faults: Faults) -> None:
        self._store, self._scheduler, self._faults = store, scheduler, faults

    def model(self, text: str, capability: str = "completion") -> Model:
        """Return the model of a name; raise what Ollama answers when it is not there or cannot do that."""
        model = self._store.find(text)
        if model is None:
            raise HttpFault(404, {"error": f'model "{text}" not found, try pulling it first'})
        if capability and capability not in model.capabilities:
            what = "embeddings" if capability == "embedding" else "chat" if capability == "completion" else capability
            raise HttpFault(400, {"error": f'"{text}" does not support {what}'})
        return model

    async def load(self, model: Model, options: dict[str, Any], keep_alive: float | None) -> None:
        """Bring a model into memory, or out of it (keep-alive 0)."""
        if keep_alive == 0:
            await self._scheduler.unload(model)
            return
        async with self._scheduler.runner(model, options, keep_alive):
            pass

    async def answer(self, question: Question, told: Told) -> AsyncIterator[str]:
        """Yield the tokens of the answer; `told` is filled in on the way."""
        model = self.model(question.model)
        async with self._scheduler.runner(model, question.options, question.keep_alive) as runner:
            told.loaded = time.perf_counter_ns()
            told.prompt_tokens = min(speech.count(question.prompt) or 1, runner.context)
            words = self._words(model, question, told)
            await asyncio.sleep(self._faults.prompt_seconds)
            told.first = time.perf_counter_ns()
            for number, word in enumerate(words):
                await self._fail_at(number)
                if number:
                    await asyncio.sleep(self._faults.token_seconds)
                told.output_tokens += 1
                yield word
            await self._fail_at(len(words))
            told.ended = time.perf_counter_ns()

    def _words(self, model: Model, question: Question, told: Told) -> Sequence[str]:
        limit = question.options.get("num_predict")
        if self._faults.reply:
            words = speech.pieces(self._faults.reply)
        elif question.format:
            words = speech.pieces(speech.structured(question.format, str(model.name), question.prompt))
        else:
            words = speech.tokens(str(model.name), question.prompt, self._faults.tokens)
        if isinstance(limit, int) and 0 < limit < len(words):
            told.reason = "length"
            return words[:limit]
        return words

    async def _fail_at(self, number: int) -> None:
        if number == self._faults.crash_after_tokens:
            raise Cut
        if number == self._faults.error_after_tokens:
            raise HttpFault(500, {"error": "an error was encountered while running the model: unexpected EOF"})
        if number == self._faults.hang_after_tokens:
            await asyncio.Event().wait()

    async def vectors(self, question: Question, texts: list[str], told: Told) -> list[list[float]]:
        """Return a vector for each text."""
        model = self.model(question.model, "")
        async with self._scheduler.runner(model, question.options, question.keep_alive):
            told.loaded = told.first = time.perf_counter_ns()
            await asyncio.sleep(self._faults.prompt_seconds)
            told.prompt_tokens = sum(speech.count(text) for text in texts)
            width = int(model.facts.get(f"{model.facts.get('general.architecture')}.embedding_length", 64))
            made = [speech.vector(f"{model.name}\0{text}", width) for text in texts]
            told.ended = time.perf_counter_ns()
            return made
