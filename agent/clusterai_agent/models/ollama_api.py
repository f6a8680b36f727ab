"""Ollama's HTTP API, as methods. Answers are as they came: `answers` makes values of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from clusterai_agent.models.ollama_errors import OllamaAway, OllamaRefused

if TYPE_CHECKING:
    from clusterai_agent.models.exchange import Exchange

T = TypeVar("T")
_KNOCK_SECONDS = 2.0
_SILENCE_SECONDS = 1800.0  # Ollama says nothing while it computes the SHA-256 of a large file on a slow disk
_NOT_FOUND = 404


class OllamaApi:
    """The Ollama at HOST:PORT."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def knock(self) -> None:
        """Raise OllamaAway unless something listens there. Most machines have no Ollama, and need no HTTP for that."""
        host, _, port = self.address.rpartition(":")
        try:
            async with asyncio.timeout(_KNOCK_SECONDS):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, TimeoutError) as error:
            raise OllamaAway(address=self.address, reason=str(error) or "no answer") from error
        writer.transport.abort()

    async def get(self, path: str) -> Any:
        """Return the answer to a question without a body: version, tags, ps. Raises like `ask`."""
        return await self.ask("GET", path)

    async def show(self, model: str) -> Any:
        """Return what is known of a model. Raises like `ask`."""
        return await self.ask("POST", "/api/show", {"model": model})

    async def copy(self, source: str, destination: str) -> None:
        """Give a model a second name; one that has it loses it. Raises like `ask`."""
        await self.ask("POST", "/api/copy", {"source": source, "destination": destination})

    async def delete(self, model: str) -> None:
        """Remove a model; a stream that runs goes on to its end. Raises like `ask`."""
        try:
            await self.ask("DELETE", "/api/delete", {"model": model})
        except OllamaRefused as error:
            if error.http_status != _NOT_FOUND:  # gone already: somebody else was faster
                raise

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the JSON of the answer; None when there is none.

        Raises:
            OllamaAway: nothing answers there.
            OllamaRefused: it answered with an error.
            OllamaOdd: it answered with something else than JSON.
        """
        exchange = _exchange(self.address)
        return await _in_thread(exchange, lambda: exchange.whole(method, path, body))

    async def pull(self, model: str, *, insecure: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Yield what Ollama says while it fetches the model; whoever stops listening stops it, and what it has stays.

        Raises:
            OllamaRefused: it failed, with Ollama's words.
            OllamaAway, OllamaOdd: as `ask`; also when the stream ends before it said that all is there.
        """
        exchange = _exchange(self.address, _SILENCE_SECONDS)
        body = {"model": model, "insecure": insecure, "stream": True}
        done = False
        try:
            await _in_thread(exchange, lambda: exchange.begin("POST", "/api/pull", body))
            while (step := await _in_thread(exchange, exchange.line)) is not None:
                done = done or step.get("status") == "success"
                yield step
        finally:
            exchange.abort()
            await asyncio.to_thread(exchange.close)
        if not done:
            raise OllamaAway(address=self.address, reason="it broke off while it fetched a model")


async def _in_thread(exchange: "Exchange", work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        exchange.abort()
        raise


def _exchange(address: str, silence_seconds: float = 0.0) -> "Exchange":
    from clusterai_agent.models.exchange import Exchange  # http.client only where there is an Ollama

    return Exchange(address, silence_seconds)
