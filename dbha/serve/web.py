"""The endpoints over HTTP. The only module that imports the web framework and its server."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from dbha.serve.answers import Answer

_REQUEST_WITHIN_S = 10.0  # a client that has not said what it wants by then is sent away
_HEADERS_BYTES = 16 * 1024
_END_WITHIN_S = 5
_METHODS = ["GET", "HEAD", "OPTIONS"]  # OPTIONS is what HAProxy asks with unless it is told otherwise
_INDEX = "dbha serve: /metrics /health /live /ready /ready/NODE /writer /writer/NODE\n"

Ask = Callable[[str], Answer]  # with the name of a node, or nothing


class Web:
    """A server for the endpoints, on a socket that is open already."""

    def __init__(self, answers: dict[str, Ask], metrics: Callable[[str], tuple[bytes, str]]) -> None:
        routes = [Route("/", _index), Route("/metrics", _metrics_route(metrics), methods=_METHODS)]
        for path, ask in answers.items():
            routes.append(Route(path, _answer_route(ask), methods=_METHODS))
        self._server = _Server(
            uvicorn.Config(
                Starlette(routes=routes),
                http=_Impatient,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=_HEADERS_BYTES,
                timeout_keep_alive=75,  # longer than the usual interval of scrapes
                timeout_graceful_shutdown=_END_WITHIN_S,
            )
        )

    async def run(self, listener: socket.socket) -> None:
        """Answer until `stop`; requests that have begun are answered first."""
        await self._server.serve(sockets=[listener])

    def stop(self) -> None:
        """Let `run` end."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the server."""
        yield


class _Impatient(H11Protocol):
    """Closes connections on which no request came, so that idle clients do not use up all files."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_REQUEST_WITHIN_S, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def as_header(words: str) -> str:
    """Return words as the value of a header: what a client put into them cannot begin another one."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in " ".join(words.split()))[:500]


async def _index(_: Request) -> Response:
    return PlainTextResponse(_INDEX)


def _metrics_route(metrics: Callable[[str], tuple[bytes, str]]) -> Callable[[Request], object]:
    async def respond(request: Request) -> Response:
        content, content_type = metrics(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": content_type})

    return respond


def _answer_route(ask: Ask) -> Callable[[Request], object]:
    async def respond(request: Request) -> Response:
        answer = ask(request.path_params.get("node", ""))
        why = str(answer.body.get("why") or "")
        headers = {"cache-control": "no-store"}
        if why:  # HAProxy logs headers, never bodies
            headers["x-dbha-why"] = as_header(why)
        return JSONResponse(answer.body, answer.status, headers=headers)

    return respond
