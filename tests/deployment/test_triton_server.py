"""The real NVIDIA Triton over HTTP and gRPC: same answers, errors that say what is wrong, a model that is killed."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from deployment.export_triton import JOINED
from deployment.triton import main
from deployment.triton_environment import prepare
from deployment.triton_server import Server
from recsys.errors import RunError
from recsys.serving import wire
from recsys.serving.bundle import Answer
from recsys.serving.verify import difference
from tests import kserve_grpc
from tests.tiny_triton import KEY, Running, assert_same, stub_of

pytestmark = pytest.mark.slow
MODELS = ("ensemble", "fused")


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_the_bundle(running: Running, model: str) -> None:
    for k, seen in ((1, False), (5, True), (10_000, True)):
        wanted = running.bundle.recommend(running.histories, k, remove_seen=seen)
        assert_same(running.ask(model, running.histories, k, seen), wanted)


def test_requests_of_any_length_at_once(running: Running) -> None:
    wanted = [running.bundle.recommend([history], 3) for history in running.histories]

    def ask(n: int) -> None:
        place = n % len(wanted)
        assert_same(running.ask(MODELS[n % 2], [running.histories[place]], 3), wanted[place])

    before = counts(running)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(96)))
    for model, (requests, batches) in counts(running).items():
        asked, ran = requests - before[model][0], batches - before[model][1]
        assert asked >= 48
        assert ran < asked if model in JOINED else ran == asked, model  # some ran together, where that is meant


def counts(running: Running) -> dict[str, tuple[int, int]]:
    """Requests of each model but the ensemble, and the batches that they made."""
    status, text = running.get("/v2/models/stats", recsys_admin=KEY)
    assert status == 200
    models = [m for m in json.loads(text)["model_stats"] if m["name"] != "ensemble"]
    return {m["name"]: (m["inference_count"], m["execution_count"]) for m in models}


@pytest.mark.parametrize("model", MODELS)
def test_grpc_gives_the_same(running: Running, model: str) -> None:
    history = running.histories[3]
    message = kserve_grpc.request_of(model, wire.to_tensors(running.canary.fields, [history], 5, True))
    answer = kserve_grpc.answer_of(kserve_grpc.call(f"127.0.0.1:{running.place.grpc}", "ModelInfer", message))
    found = [Answer(*row) for row in wire.read_answers(answer, 1)]
    assert_same(found, running.bundle.recommend([history], 5, remove_seen=True))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"k": np.zeros((1, 1), np.int32)}, "k (0) must be a whole number of at least 1"),
        ({"lengths": np.zeros((1, 1), np.int32)}, "the history is empty; give at least one event"),
        ({"lengths": np.full((1, 1), 99, np.int32)}, "input 'lengths', session 1: 99"),
        ({"item_id": np.full((1, 3), b"\xff", object)}, "not UTF-8 text"),
        ({"item_id": np.full((1, 2), b"x", object)}, "has shape [1, 2]"),
        ({"item_id": np.zeros((1, 3))}, "data-type is 'FP64'"),
        ({"timestamp": np.full((1, 3), 2**62)}, "expected microseconds since 1970"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(running: Running, model: str, changed: Any, said: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        running.ask(model, [running.histories[1]], changed=changed)
    text = json.loads(caught.value.read())["error"]
    assert caught.value.code == 400
    assert said in text
    assert "/" not in text.replace(model, "")  # no folder of the server's machine


@pytest.mark.parametrize("model", MODELS)
def test_long_histories(running: Running, model: str) -> None:
    long = {name: values * 5000 for name, values in running.histories[1].items()}
    assert_same(running.ask(model, [long], seen=True), running.bundle.recommend([long], remove_seen=True))


def test_the_apis_of_the_administrator_want_their_key(running: Running) -> None:
    for path in ("/v2/models/fused/config", "/v2/models/fused/stats", "/v2/logging", "/v2/systemsharedmemory/status"):
        assert running.get(path)[0] == 403
        assert running.get(path, recsys_admin="another-key")[0] == 403
        assert running.get(path, recsys_admin=KEY)[0] == 200
    with pytest.raises(grpc.RpcError) as caught:
        kserve_grpc.call(f"127.0.0.1:{running.place.grpc}", "RepositoryIndex")
    assert "restricted" in caught.value.details()


def test_a_health_check_asks_the_server_that_runs(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--repository", str(running.repository), "--probe", "--http-port"]
    assert main([*command, str(running.place.http)]) == 0
    assert "ensemble and fused give the answers of the export" in capsys.readouterr().out
    assert main([*command, str(running.place.metrics)]) == 2  # something answers there, but no model
    assert "ensemble: " in capsys.readouterr().err


def test_metrics_count_every_model(running: Running) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.place.metrics}/metrics") as answer:
        text = answer.read().decode()
    for model in (*MODELS, "transform", "embed", "rank", "decode"):
        assert f'nv_inference_request_success{{model="{model}",version="1"}}' in text


def test_a_model_that_is_killed_under_load_comes_back(running: Running) -> None:
    wanted = [running.bundle.recommend([history])[0] for history in running.histories]
    done, wrong, right = threading.Event(), [], []

    def load() -> None:
        n = 0
        while not done.is_set():
            n += 1
            try:
                found = running.ask(MODELS[n % 2], [running.histories[n % len(wanted)]])[0]
            except (OSError, wire.WireError):
                done.wait(0.05)
                continue
            (right if difference(found, wanted[n % len(wanted)], 1e-5) is None else wrong).append(n)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for count, name in enumerate((signal.SIGKILL, signal.SIGSTOP), 1):
            os.kill(stub_of(running, "rank"), name)
            running.wait_for("starting anew", count)
            running.wait_for("ready after", count + 1)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert right and not wrong
    assert_same([running.ask("ensemble", [running.histories[0]])[0]], wanted[:1])


def test_a_port_that_is_taken(running: Running) -> None:
    server = Server(prepare(), running.repository, running.place, None, KEY)
    with pytest.raises(RunError, match=rf"127\.0\.0\.1:{running.place.http}: cannot be listened on"):
        server.start()
