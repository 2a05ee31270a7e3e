"""The socket and the process of the app."""

import sys

import uvicorn
from starlette.types import ASGIApp

from deployment.web.app import App
from deployment.web.guard import is_loopback
from recsys.runtime import note
from recsys.server.listening import PatientProtocol, listen, run, url_of

_MESSAGE = 1024  # bytes of a message from a page; pages send none
_STOP = 3  # seconds that answers under way have when the app stops
_BESIDE = 64  # connections beside those of pages that listen


def make_server(app: ASGIApp, pages: int = 32) -> uvicorn.Server:
    """A server of the app for `recsys.server.listening.run`; pages that do not answer a ping are disconnected."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="websockets-sansio",
        ws_max_size=_MESSAGE,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,
        lifespan="on",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=pages + _BESIDE,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_STOP,
    )
    return uvicorn.Server(config)


def serve(app: App, host: str, port: int, names: list[str], pages: int = 32) -> None:
    """Answer pages until SIGINT or SIGTERM.

    Raises:
        InputError: the address is taken, or a file is no log of the profile.
        Exception: whatever ended the app.
    """
    failures: list[BaseException] = []
    with listen(host, port) as listener:
        app.start()
        if not is_loopback(host):
            note(f"{host} can be reached from other machines; whoever reaches it sees what stands in the logs")
        server = make_server(app.build(host, names), pages)

        def failed(error: BaseException) -> None:
            failures.append(error)
            server.should_exit = True

        app.failed = failed
        print(f"live: {url_of(listener)} asks {app.name}; Ctrl-C stops", flush=True)
        run(server, listener)
    if failures:
        print("live: ended by an error of its own", file=sys.stderr)
        raise failures[0]
    print("live: stopped", flush=True)
