"""The daemon's boundary in small: authorise each call, set its caller, turn the error family into statuses."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from clusterai.errors import ClusterAIError
from clusterai.rpc import error_metadata, status_of
from clusteraid.access import CURRENT_CALLER, Access, Listener


class Boundary(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps unary and streaming handlers alike."""

    def __init__(self, access: Access, listener: Listener) -> None:
        self._access, self._listener = access, listener

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        if handler.response_streaming:
            make, inner = grpc.stream_stream_rpc_method_handler, handler.stream_stream
            return make(
                self._streaming(inner, details.method), handler.request_deserializer, handler.response_serializer
            )
        make, inner = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        return make(self._unary(inner, details.method), handler.request_deserializer, handler.response_serializer)

    def _unary(self, inner: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            async with self._errors(method, context):
                return await inner(request, context)

        return call

    def _streaming(self, inner: Any, method: str) -> Any:
        async def call(requests: Any, context: Any) -> Any:
            async with self._errors(method, context):
                async for response in inner(requests, context):
                    yield response

        return call

    @asynccontextmanager
    async def _errors(self, method: str, context: Any) -> AsyncIterator[None]:
        try:
            caller = self._access.authorize(method, self._listener, context.peer(), context.auth_context())
            CURRENT_CALLER.set(caller)
            yield
        except ClusterAIError as error:
            await context.abort(status_of(error), str(error), error_metadata(error))
