"""The KServe v2 endpoints of one model as an ASGI application."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from recsys.errors import RecsysError
from recsys.server.metrics import CONTENT_TYPE, Metrics
from recsys.server.model import VERSION, Model, Reply
from recsys.serving import kserve, wire

SERVER_NAME = "recsys-local"
_DRAINED = 8
"""Times the limit that is read of a body too large, so that its sender reads the answer and not a broken pipe."""
_CLOSED = 499
Endpoint = Callable[[Request], Awaitable[Response]]


class App:
    """Holds the model, the workers and the counters that the endpoints share.

    Args:
        model: that answers.
        workers: requests computed side by side.
    """

    def __init__(self, model: Model, workers: int = 1) -> None:
        self.model, self.limits, self.metrics = model, model.limits, Metrics()
        self.workers = workers
        self.pool: ThreadPoolExecutor | None = None

    def build(self) -> Starlette:
        """The application."""
        routes = [
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/metrics", self.counters),
        ]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(prefix, self._of_the_model(self.describe)),
                Route(f"{prefix}/ready", self._of_the_model(self.ready)),
                Route(f"{prefix}/infer", self._of_the_model(self.infer), methods=["POST"]),
            ]
        handlers: dict[Any, Any] = {HTTPException: _refusal, Exception: _failure}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._life)

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="infer")
        try:
            yield
        finally:
            pool, self.pool = self.pool, None
            pool.shutdown(wait=False, cancel_futures=True)

    def _of_the_model(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, which answers 404 for another model or version."""

        async def checked(request: Request) -> Response:
            name, version = request.path_params["model"], request.path_params.get("version", VERSION)
            if name != self.model.name:
                raise HTTPException(404, f"model {wire.shown(name)} is unknown; this server has '{self.model.name}'")
            if version != VERSION:
                raise HTTPException(404, f"version {wire.shown(version)} is unknown; this server has '{VERSION}'")
            return await endpoint(request)

        return checked

    async def server(self, _: Request) -> Response:
        """What this server is."""
        return _json({"name": SERVER_NAME, "version": metadata.version("recsys"), "extensions": ["binary_tensor_data"]})

    async def live(self, _: Request) -> Response:
        """200: the server runs."""
        return Response()

    async def ready(self, _: Request) -> Response:
        """200: the model answers (it replayed its golden requests before the server began to listen)."""
        return Response(status_code=503 if self.pool is None else 200)

    async def describe(self, _: Request) -> Response:
        """Inputs and outputs of the model."""
        return _json(self.model.metadata())

    async def counters(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def infer(self, request: Request) -> Response:
        """Answer sessions."""
        start, status, sessions = time.perf_counter(), 500, 0
        self.metrics.running += 1
        try:
            reply = await self._answer(request)
            status, sessions = 200, reply.sessions
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect:
            status = _CLOSED
            return Response(status_code=_CLOSED)
        finally:
            self.metrics.running -= 1
            self.metrics.add(status, time.perf_counter() - start, sessions)
        if reply.header_length is None:
            return Response(reply.body, media_type="application/json")
        headers = {kserve.HEADER: str(reply.header_length)}
        return Response(reply.body, media_type="application/octet-stream", headers=headers)

    async def _answer(self, request: Request) -> Reply:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "a compressed body is not read; send it as it is")
        if self.pool is None or self.metrics.running > self.workers + self.limits.waiting:
            raise _closing(503, "too many requests are waiting; try again", {"Retry-After": "1"})
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                body = await self._body(request)
        except TimeoutError:
            raise _closing(408, f"the body was not there within {self.limits.body_seconds:g} seconds") from None
        header = request.headers.get(kserve.HEADER)
        work = asyncio.get_running_loop().run_in_executor(self.pool, self.model.infer, body, header)
        try:
            return await asyncio.wait_for(work, self.limits.answer_seconds)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self.limits.answer_seconds:g} seconds") from None
        except (wire.WireError, RecsysError) as error:
            raise HTTPException(400, str(error)) from None

    async def _body(self, request: Request) -> bytes:
        limit, size, chunks = self.limits.body_bytes, 0, []
        announced = request.headers.get("content-length", "0")
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            elif size > _DRAINED * limit or int(announced) > _DRAINED * limit:
                break
        if size > limit:
            raise _closing(413, f"the body is above {limit:,} bytes; send fewer sessions at a time")
        return b"".join(chunks)


def _closing(status: int, text: str, headers: Mapping[str, str] | None = None) -> HTTPException:
    """A refusal after which the connection is of no use, since the rest of the body may stand in it."""
    return HTTPException(status, text, {"Connection": "close", **(headers or {})})


def _json(values: dict[str, Any], status: int = 200, headers: Any = None) -> Response:
    body = json.dumps(values, ensure_ascii=True)
    return Response(body, status, headers, media_type="application/json")


async def _refusal(_: Request, error: HTTPException) -> Response:
    return _json({"error": " ".join(error.detail.split())}, error.status_code, error.headers)


async def _failure(_: Request, __: Exception) -> Response:
    return _json({"error": "the server failed on this request; its log says why"}, 500)
