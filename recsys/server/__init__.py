"""`recsys serve`: a bundle behind the KServe v2 protocol over HTTP, for one machine and for development.

| module | does |
|---|---|
| `limits` | what a request may hold and how long the server waits |
| `model` | bytes of a request to bytes of its answer |
| `app` | the endpoints |
| `listening` | socket, signals, slow clients |
| `metrics` | counters for Prometheus |

Needs the extra `serve`; neither PyTorch nor Polars is loaded.
"""

import ipaddress
from importlib.util import find_spec
from pathlib import Path

from recsys.errors import ConfigError
from recsys.runtime import note
from recsys.server.limits import Limits
from recsys.server.limits import read_limits as read_limits
from recsys.serving import require_onnxruntime

MODEL_NAME = "recommend"
PORT = 8000


def require_server() -> None:
    """Raise ConfigError unless what the extra `serve` brings is installed."""
    require_onnxruntime()
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise ConfigError(f"the server needs {name}, which is not installed: pip install 'recsys[serve]'")


def serve(
    bundle: Path,
    *,
    name: str = MODEL_NAME,
    host: str = "127.0.0.1",
    port: int = PORT,
    workers: int = 1,
    threads: int = 1,
    limits: Limits | None = None,
) -> None:
    """Check a bundle, replay its golden requests, then answer until SIGINT or SIGTERM.

    Args:
        bundle: folder that `recsys export` wrote.
        name: of the model in the addresses.
        host: address to listen on.
        port: 0 for any that is free.
        workers: requests that are computed side by side.
        threads: that work on a request; all workers share them.
        limits: on requests and waiting.

    Raises:
        InputError: the bundle is not what was exported, answers otherwise here, or the address is taken.
    """
    require_server()
    from recsys.server.app import SERVER_NAME, App
    from recsys.server.listening import listen, make_server, run, url_of
    from recsys.server.model import Model
    from recsys.serving.bundle import Bundle

    if min(workers, threads) < 1 or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        given = f"serve: name '{name}', workers {workers}, threads {threads}"
        raise ConfigError(f"{given}; expected letters, digits, - or _ in the name, 1 or more of the others")
    limits = limits or Limits()
    model = Model(name, Bundle.open(bundle, threads=threads), limits)
    model.warm_up()
    with listen(host, port) as listener:
        if not _is_loopback(host):
            note(f"{host} can be reached from other machines, and this server asks nobody for a password")
        names = model.bundle.transform.names
        items = sum(item is not None for item in names)
        print(f"{SERVER_NAME}: {url_of(listener)}/v2/models/{name} ({items} items); Ctrl-C stops", flush=True)
        run(make_server(App(model, workers).build(), limits), listener)
    print(f"{SERVER_NAME}: stopped", flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
