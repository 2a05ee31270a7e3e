"""The reverse proxy on the real nginx before the real NVIDIA Triton, asked by `recsys.client` over HTTPS and gRPC."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from deployment.export_triton import export_triton
from deployment.nginx_config import ERRORS
from deployment.triton import Supervisor
from deployment.triton_environment import prepare
from deployment.triton_server import Canary, Server
from recsys.client import Client, EndpointError, Recommendation
from recsys.errors import InputError, RecsysError
from recsys.serving.bundle import Answer, Bundle
from tests.kserve_grpc import SERVICE
from tests.shared_bundle import shared_bundle
from tests.tiny_proxy import TOKENS, Proxied, bearer, call, needs_nginx, proxying
from tests.tiny_server import PATIENCE
from tests.tiny_tls import Certificate, make_certificate
from tests.tiny_triton import KEY, assert_same, free_ports

pytestmark = [needs_nginx, pytest.mark.slow]
SCHEMES = ("https", "grpcs")
WAYS = [(scheme, model) for scheme in SCHEMES for model in ("ensemble", "fused")]
MOST = 1 << 20
"""Bytes of a request; of a body nginx keeps 256 KiB in memory."""
ALIVE = b"\x08\x01"
"""What gRPC's health calls answer where all is well: field 1 is true."""


@dataclass
class Behind:
    """Triton, and the bundle that it serves."""

    bundle: Bundle
    server: Server
    canary: Canary

    def start(self) -> None:
        Supervisor(self.server, self.canary, lambda _: None).start()

    @property
    def upstreams(self) -> list[str]:
        place = self.server.place
        models = ["--model", "ensemble", "--model", "fused"]
        return [*models, "--upstream", f"127.0.0.1:{place.http}", "--grpc-upstream", f"127.0.0.1:{place.grpc}"]

    @property
    def urls(self) -> dict[str, str]:
        """Without the proxy."""
        return {
            "https": f"http://127.0.0.1:{self.server.place.http}",
            "grpcs": f"grpc://127.0.0.1:{self.server.place.grpc}",
        }

    @property
    def histories(self) -> list[Any]:
        return [request["columns"] for request in self.canary.requests]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proxied")


@pytest.fixture(scope="module")
def files(place: Path) -> Certificate:
    return make_certificate(place)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Behind]:
    """A Triton of this file's own: it is stopped and started again here."""
    bundle = shared_bundle(tmp_path_factory).bundle
    repository, ports = export_triton(bundle, place / "models"), free_ports()
    server = Server(prepare(), repository, ports, place / "triton.log", KEY)
    found = Behind(Bundle.open(bundle), server, Canary(repository, ports))
    try:
        found.start()
        yield found
    finally:
        server.stop()


@pytest.fixture(scope="module")
def proxy(place: Path, files: Certificate, behind: Behind) -> Iterator[Proxied]:
    with proxying(place / "front", files, *behind.upstreams, "--body-bytes", str(MOST), "--rate", "1000") as running:
        yield running


@pytest.fixture(scope="module")
def hasty(place: Path, files: Certificate, behind: Behind) -> Iterator[Proxied]:
    """Waits a second for an answer."""
    with proxying(place / "hasty", files, *behind.upstreams, "--answer-seconds", "1") as running:
        yield running


def asking(proxy: Proxied, scheme: str, model: str = "fused", token: str | None = TOKENS["alice"],
           **options: Any) -> Client:  # fmt: skip
    options = {"deadline": PATIENCE, **options}
    return Client(f"{scheme}://127.0.0.1:{proxy.port}", model=model, token=token, ca=proxy.certificate, **options)


def answers(found: list[Recommendation]) -> list[Answer]:
    return [Answer(a.items, a.scores, a.probabilities) for a in found]


def refusal(client: Client, history: Any, kind: type[RecsysError]) -> str:
    """What a client says of a request that has no answer, after its address: one line."""
    with pytest.raises(kind) as caught:
        client.recommend(history)
    address, colon, said = str(caught.value).partition(": ")
    assert address == client.url and colon and "\n" not in said
    return said


def status_of(scheme: str, number: int, name: str) -> str:
    """How the client names an error of the proxy."""
    return f"status {number if scheme == 'https' else name}: {ERRORS[number]}"


@pytest.mark.parametrize(("scheme", "model"), WAYS)
def test_answers_are_those_of_the_bundle_and_of_triton(behind: Behind, proxy: Proxied, scheme: str, model: str) -> None:
    with asking(proxy, scheme, model, batch=5) as client, Client(behind.urls[scheme], model=model, batch=5) as direct:
        assert client.ready()
        for k, seen in ((1, False), (5, True), (10_000, False)):
            found = client.recommend_batch(behind.histories, k, remove_seen=seen)
            assert found == direct.recommend_batch(behind.histories, k, remove_seen=seen)
            wanted = behind.bundle.recommend(behind.histories, k, remove_seen=seen)
            assert [a.items for a in found] == [a.items for a in wanted]
            assert_same(answers(found), wanted)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_threads_and_one_client(behind: Behind, proxy: Proxied, scheme: str) -> None:
    wanted = behind.bundle.recommend(behind.histories, 3)
    with asking(proxy, scheme) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: client.recommend(behind.histories[n % len(wanted)], 3), range(96)))
    assert_same(answers(found), [wanted[n % len(wanted)] for n in range(96)])


@pytest.mark.parametrize(("scheme", "model"), WAYS)
def test_a_body_that_nginx_does_not_keep_in_memory(behind: Behind, proxy: Proxied, scheme: str, model: str) -> None:
    """Over HTTPS it waits in a file until all of it is there; over gRPC it goes on piece by piece."""
    long = {name: values * 1000 for name, values in behind.histories[1].items()}
    errors = proxy.folder / "state" / "error.log"
    before = errors.read_text().count("is buffered to a temporary file")
    with asking(proxy, scheme, model) as client:
        assert_same(answers([client.recommend(long)]), behind.bundle.recommend([long], 5))
    assert errors.read_text().count("is buffered to a temporary file") == before + (scheme == "https")


def test_health(proxy: Proxied) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/ensemble/ready", "/v2/models/fused/ready"):
        assert proxy.ask("GET", path, headers=bearer("bob")).status == 200
        assert proxy.ask("GET", path).status == 401
    for method in ("ServerLive", "ServerReady"):
        assert call(proxy, SERVICE + method, b"", "bob") == ALIVE
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            call(proxy, SERVICE + method, b"", None)


@pytest.mark.parametrize("token", [None, "x" * 40, TOKENS["bob"].upper()])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_token_and_a_wrong_one(behind: Behind, proxy: Proxied, scheme: str, token: str | None) -> None:
    with asking(proxy, scheme, token=token) as client:
        assert not client.ready()
        said = refusal(client, behind.histories[0], InputError)
    assert said == status_of(scheme, 401, "UNAUTHENTICATED")


@pytest.mark.parametrize("times", [1, 10])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_request_that_is_too_large(behind: Behind, proxy: Proxied, scheme: str, times: int) -> None:
    """A little above the limit, and far: nginx refuses the latter before this side has sent all of it."""
    history = behind.histories[1]
    events = len(history["item_id"])
    with asking(proxy, scheme) as client:
        said = refusal(client, history | {"item_id": ["x" * (times * MOST // events)] * events}, InputError)
        assert said == status_of(scheme, 413, "INVALID_ARGUMENT")
        assert client.recommend(history).items == behind.bundle.recommend([history], 5)[0].items


@pytest.mark.parametrize(("scheme", "model"), WAYS)
def test_what_triton_says_of_a_request_is_told(behind: Behind, proxy: Proxied, scheme: str, model: str) -> None:
    history = behind.histories[1]
    bad = history | {"merge_count": [-5.0] * len(history["item_id"])}
    with asking(proxy, scheme, model) as client:
        said = refusal(client, bad, InputError)
    assert said.startswith(f"status {'400' if scheme == 'https' else 'INVALID_ARGUMENT'}: ")
    assert "column 'merge_count', event 1: -5" in said


def test_the_key_of_the_administrator_opens_nothing_here(proxy: Proxied) -> None:
    key = {"recsys-admin": KEY}
    for path in ("/v2/models/fused/config", "/v2/models/fused/stats", "/v2/repository/index", "/v2/models/rank"):
        assert proxy.ask("GET", path, headers=bearer("alice") | key).status == 404
    for method in ("ModelConfig", "ModelStatistics", "RepositoryIndex"):
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            call(proxy, SERVICE + method, b"", "alice", metadata=[("triton-grpc-protocol-recsys-admin", KEY)])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_triton_that_hangs(behind: Behind, proxy: Proxied, hasty: Proxied, scheme: str) -> None:
    history = behind.histories[0]
    assert behind.server.process
    with asking(proxy, scheme) as client, asking(hasty, scheme, retries=0) as other:
        client.recommend(history)
        os.kill(behind.server.process.pid, signal.SIGSTOP)
        try:
            client.deadline = 0.5  # its own word: this proxy would wait 30 seconds
            said = refusal(client, history, EndpointError)
            assert said.startswith("no answer after 1 tries in 0.5 seconds at most: ") and ERRORS[504] not in said
            said = refusal(other, history, EndpointError)
            assert said.startswith("no answer after 1 tries ")
            assert said.endswith(status_of(scheme, 504, "DEADLINE_EXCEEDED"))
        finally:
            os.kill(behind.server.process.pid, signal.SIGCONT)
        client.deadline = PATIENCE
        assert_same(answers([client.recommend(history)]), behind.bundle.recommend([history], 5))


def test_a_triton_that_is_stopped_and_comes_back(behind: Behind, proxy: Proxied) -> None:
    history = behind.histories[0]
    with asking(proxy, "https", retries=10**6) as http, asking(proxy, "grpcs", retries=10**6) as other:
        clients = {"https": http, "grpcs": other}
        for client in clients.values():
            assert client.ready() and client.recommend(history)
        behind.server.stop()
        try:
            for scheme, client in clients.items():
                client.deadline = 1.5  # nothing else ends so many tries
                assert not client.ready()
                said = refusal(client, history, EndpointError)
                assert said.startswith("no answer after ") and " tries in 1.5 seconds at most: " in said
                assert said.endswith(status_of(scheme, 502, "UNAVAILABLE"))
        finally:
            behind.start()
        for client in clients.values():
            client.deadline = PATIENCE
            assert client.ready()
            assert_same(answers([client.recommend(history)]), behind.bundle.recommend([history], 5))
