"""One HTTP request to Ollama and its answer. The only module that speaks HTTP with it.

`http.client` in threads: Ollama answers on loopback within milliseconds, and an asynchronous kit would cost more memory
than the rest of this package.
"""

import http.client
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from clusterai import __version__
from clusterai.errors import ClusterAIError
from clusterai_agent.models.ollama_errors import OllamaAway, OllamaOdd, OllamaRefused

T = TypeVar("T")
_ANSWER_LIMIT, _LINE_LIMIT, _CHUNK = 16 << 20, 1 << 16, 1 << 16
_CALL_SECONDS = 10.0
_HEADERS = {"Content-Type": "application/json", "User-Agent": f"clusterai-agent/{__version__}", "Connection": "close"}
_FAULTS = (OSError, http.client.HTTPException, ValueError, RecursionError)


class Exchange:
    """One request and its answer, for one thread; `abort` may come from another.

    A silence of 0 seconds means the usual limit.
    """

    def __init__(self, address: str, silence_seconds: float) -> None:
        host, _, port = address.rpartition(":")
        self._address, self._silence = address, silence_seconds or _CALL_SECONDS
        self._connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_CALL_SECONDS)
        self._socket: socket.socket | None = None  # the connection lets go of it when the answer begins
        self._response: http.client.HTTPResponse | None = None

    def whole(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """Return the answer's JSON."""
        try:
            self.begin(method, path, body)
            return self._translated(self._rest)
        finally:
            self.close()

    def begin(self, method: str, path: str, body: dict[str, Any] | None) -> None:
        """Send the request; return when a good answer begins."""
        response = self._translated(lambda: self._sent(method, path, body))
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise self._refusal(response.status)
        if response.status != http.HTTPStatus.OK:
            raise OllamaOdd(address=self._address, reason=f"HTTP status {response.status}")

    def line(self) -> dict[str, Any] | None:
        """Return the next object of a stream; None at its end."""
        text = self._translated(lambda: self._open.readline(_LINE_LIMIT + 1))
        if not text:
            return None
        if len(text) > _LINE_LIMIT:
            raise OllamaOdd(address=self._address, reason=f"a line is longer than {_LINE_LIMIT} bytes")
        step = self._translated(lambda: json.loads(text))
        if not isinstance(step, dict):
            raise OllamaOdd(address=self._address, reason="a line is no JSON object")
        if "error" in step:
            raise OllamaRefused(str(step["error"]))
        return step

    def abort(self) -> None:
        """Break the connection: a thread that waits for it goes on at once."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it."""
        if self._response is not None:
            self._response.close()
        self._connection.close()

    @property
    def _open(self) -> http.client.HTTPResponse:
        assert self._response is not None
        return self._response

    def _sent(self, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, _HEADERS)
        self._socket = self._connection.sock
        if self._socket is not None:
            self._socket.settimeout(self._silence)
        self._response = self._connection.getresponse()
        return self._response

    def _rest(self) -> Any:
        """All that is left of the answer, within its limits of size and time."""
        data, deadline = b"", time.monotonic() + _CALL_SECONDS
        while chunk := self._open.read1(_CHUNK):
            data += chunk
            if len(data) > _ANSWER_LIMIT:
                raise OllamaOdd(address=self._address, reason=f"its answer is longer than {_ANSWER_LIMIT} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"its answer took longer than {_CALL_SECONDS:g} s")
        return json.loads(data) if data.strip() else None

    def _refusal(self, status: int) -> OllamaRefused:
        with suppress(ClusterAIError):
            answer = self._translated(self._rest)
            if isinstance(answer, dict) and isinstance(answer.get("error"), str):
                return OllamaRefused(answer["error"], status)
        return OllamaRefused(f"HTTP status {status}", status)

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except ConnectionError as error:
            raise OllamaAway(address=self._address, reason=error.strerror or str(error)) from error
        except TimeoutError as error:
            raise OllamaAway(address=self._address, reason=str(error) or "no answer") from error
        except http.client.IncompleteRead as error:
            raise OllamaAway(address=self._address, reason="it broke off in the middle of its answer") from error
        except OSError as error:
            raise OllamaAway(address=self._address, reason=error.strerror or str(error)) from error
        except _FAULTS as error:
            raise OllamaOdd(address=self._address, reason=str(error)[:200] or type(error).__name__) from error
