"""`recsys.client` against the real NVIDIA Triton and the local server: the same answers, the same refusals."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest

from recsys.client import Client, EndpointError
from recsys.errors import InputError
from recsys.inference import recommend
from recsys.serving.bundle import Answer
from recsys.serving.verify import difference
from tests.tiny_bundle import make_rich_events
from tests.tiny_server import Served, serving
from tests.tiny_triton import Running, assert_same

pytestmark = pytest.mark.slow
WAYS = [("http", "ensemble"), ("http", "fused"), ("grpc", "ensemble"), ("grpc", "fused")]


@pytest.fixture(scope="module")
def local(running: Running) -> Iterator[Served]:
    with serving(running.bundle) as served:
        yield served


def answers(found: list[Any]) -> list[Answer]:
    return [Answer(a.items, a.scores, a.probabilities) for a in found]


@pytest.mark.parametrize(("way", "model"), WAYS)
def test_the_same_answers_as_the_local_server_and_the_bundle(
    running: Running, local: Served, way: str, model: str
) -> None:
    with Client(running.urls[way], model=model, batch=5) as triton, Client(local.url) as here:
        assert triton.ready() and here.ready()
        for k, seen in ((1, False), (5, True), (10_000, False)):
            found = triton.recommend_batch(running.histories, k, remove_seen=seen)
            wanted = running.bundle.recommend(running.histories, k, remove_seen=seen)
            assert_same(answers(found), wanted)
            assert_same(answers(here.recommend_batch(running.histories, k, remove_seen=seen)), wanted)
        one = [triton.recommend(history, 3) for history in running.histories]
        assert_same(answers(one), running.bundle.recommend(running.histories, 3))


@pytest.mark.parametrize(("way", "model"), WAYS)
def test_the_same_answers_as_recommend_offline(running: Running, way: str, model: str) -> None:
    events = make_rich_events(sessions=9)
    lists = recommend(running.run, events, k=4)
    names = list(running.bundle.manifest["requests"])
    sessions = events.partition_by("session_id", maintain_order=True)
    with Client(running.urls[way], model=model) as client:
        found = client.recommend_batch([s.select(names).to_dict(as_series=False) for s in sessions], 4)
    assert len(found) == 9
    for session, answer in zip(sessions, answers(found), strict=True):
        rows = lists.filter(pl.col("session_id") == session["session_id"][0])
        right = Answer(rows["item_id"].to_list(), rows["score"].to_list(), rows["probability"].to_list())
        assert difference(answer, right, 1e-4) is None


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_many_threads_and_one_client(running: Running, way: str) -> None:
    wanted = running.bundle.recommend(running.histories, 3)
    with Client(running.urls[way], model="fused") as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: client.recommend(running.histories[n % len(wanted)], 3), range(96)))
    assert_same(answers(found), [wanted[n % len(wanted)] for n in range(96)])


@pytest.mark.parametrize(("way", "model"), WAYS)
def test_what_is_refused_is_told(running: Running, way: str, model: str) -> None:
    history = running.histories[1]
    with Client(running.urls[way], model=model) as client:
        with pytest.raises(InputError, match="column 'merge_count', event 1: -5"):
            client.recommend({**history, "merge_count": [-5.0] * len(history["timestamp"])})
        with pytest.raises(InputError, match="the history is empty"):
            client.recommend({name: [] for name in history})
    with Client(running.urls[way], model="no_such_model") as client:
        assert not client.ready()
        with pytest.raises((InputError, EndpointError), match="no_such_model"):
            client.recommend(history)
