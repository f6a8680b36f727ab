"""The boundary of every call: who calls and may it, what the error family becomes on the wire, and the audit line."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from inspect import isasyncgenfunction
from typing import Any

import grpc

from clusterai.errors import ClusterAIError, Status
from clusterai.rpc import error_metadata, status_of
from clusteraid.access import CURRENT_CALLER, Access, Caller, Listener, peer_address

log = logging.getLogger(__name__)
audit = logging.getLogger("clusteraid.audit")
_READING = ("Get", "List", "Watch", "Read", "Session", "RunChecks")  # begin the names of methods that change nothing
_SUBJECTS = ("node_id", "unit", "token_id", "name", "node_name", "pool_name", "bound_name")
_SHOWN = 80
Behaviour = Callable[[Any, Any], Any]


class Internal(ClusterAIError):
    code, status = "internal", Status.INTERNAL
    message = "the server failed in {method}"
    hint = "this is a defect; the cause is in `journalctl -u clusteraid`"


class Boundary(grpc.aio.ServerInterceptor):  # type: ignore[type-arg, unused-ignore]
    """Stands around every call of one listener."""

    def __init__(self, access: Access, listener: Listener) -> None:
        self._access, self._listener = access, listener
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the method's handler with the boundary around it; None, as gRPC wants it, for an unknown method."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            make, behaviour = _kind(handler)
            guarded = self._guarded(method, behaviour, streams=bool(handler.response_streaming))
            serializer = _serializer(handler.response_serializer)
            self._handlers[method] = make(guarded, handler.request_deserializer, serializer)
        return self._handlers[method]

    def _guarded(self, method: str, behaviour: Behaviour, *, streams: bool) -> Behaviour:
        run = _written(behaviour) if streams and isasyncgenfunction(behaviour) else behaviour
        changes = not method.rpartition("/")[2].startswith(_READING)

        async def call(request: Any, context: Any) -> Any:
            caller: Caller | None = None
            try:
                caller = self._access.authorize(method, self._listener, context.peer(), context.auth_context())
                CURRENT_CALLER.set(caller)
                with self._access.streams.opened(caller) if streams else nullcontext():
                    answer = await run(request, context)
            except ClusterAIError as error:
                _note(method, caller or _stranger(context), request, error.code, changes=changes or caller is None)
                await _refuse(context, error)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception:  # the boundary: nothing of an unknown error reaches the peer
                log.exception("%s failed", method)
                _note(method, caller or _stranger(context), request, "internal", changes=changes)
                await _refuse(context, Internal(method=method))
            else:
                _note(method, caller, request, "done", changes=changes)
                return answer

        return call


def _serializer(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Let a servicer answer with bytes that are serialised already."""
    return lambda response: response if type(response) is bytes else serialize(response)


def _kind(handler: Any) -> tuple[Callable[..., Any], Behaviour]:
    """Return how a handler of this kind is made, and what it runs."""
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def _written(behaviour: Behaviour) -> Behaviour:
    """Turn a generator of responses into a coroutine that writes them."""

    async def run(request: Any, context: Any) -> None:
        responses = behaviour(request, context)
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()

    return run


async def _refuse(context: Any, error: ClusterAIError) -> None:
    await context.abort(status_of(error), str(error), error_metadata(error))


def _stranger(context: Any) -> str:
    """Name a caller that was not let in: by what its certificate says, which is of our authority, and its address."""
    names = context.auth_context().get("peer_spiffe_id", ())
    shown = ", ".join(f"{name.decode(errors='replace')!r:.{_SHOWN}}" for name in names) or "without a name"
    return f"refused caller {shown} from {peer_address(context.peer())}"


def _note(method: str, caller: Caller | str, request: Any, outcome: str, *, changes: bool) -> None:
    """Write who changed what, or tried to, and how it ended. Secrets are in none of the named fields."""
    if not changes:
        return
    named = (f"{field}={getattr(request, field)!r:.{_SHOWN}}" for field in _SUBJECTS if getattr(request, field, ""))
    who = caller if isinstance(caller, str) else f"{caller.name} ({caller.role.value}) from {caller.address}"
    audit.info("%s called %s: %s", who, " ".join((method.rpartition(".")[2], *named)), outcome)
