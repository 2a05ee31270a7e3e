"""The numpy transform against the training data's own, on random raw events."""

import json
import math
import re
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.dataset import SequenceDataset
from recsys.inference import LoadedRun, load
from recsys.inference.scoring import seen_items
from recsys.inference.sequences import read_sequences
from recsys.serving import transform as module
from recsys.serving.transform import RequestError, Transform
from tests.tiny_bundle import make_rich_run, transform_of

NOW = 1_600_000_000_000_000
TYPES: dict[str, Any] = {"time": pl.Int64, "text": pl.String, "texts": pl.List(pl.String), "number": pl.Float64}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return load(make_rich_run(tmp_path_factory.mktemp("rich")), device="cpu")


@pytest.fixture(scope="module")
def transform(run: LoadedRun) -> Transform:
    return transform_of(run)


def texts(known: str, most: int) -> st.SearchStrategy[str | None]:
    usual = st.integers(0, most).map(lambda n: f"{known}{n}")
    return st.one_of(usual, usual, st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=4))


NUMBERS = st.one_of(
    st.floats(-0.99, 1e6, allow_nan=False),
    st.sampled_from([0.5, 3.0, -0.0]),
    st.none(),
    st.just(math.inf),
    st.just(math.nan),
)
GAP_TIMES = st.lists(st.one_of(st.integers(0, 10**7), st.integers(0, 10**13), st.just(0)), min_size=1, max_size=14)


@st.composite
def sessions(draw: st.DrawFn) -> dict[str, Any]:
    gaps = draw(GAP_TIMES)
    ordered = [NOW + sum(gaps[: n + 1]) for n in range(len(gaps))]
    times = draw(st.one_of(st.just(ordered), st.permutations(ordered)))
    each = {
        "item_id": st.one_of(texts("command 0", 9), texts("command 1", 3)),
        "place": texts("place ", 4),
        "tags": st.one_of(st.none(), st.lists(texts("t", 6), max_size=4)),
        "merge_count": NUMBERS,
        "size": NUMBERS,
        "age": NUMBERS,
    }
    columns = {name: [draw(values) for _ in times] for name, values in each.items()}
    once = {"version": [draw(texts("v", 3))] * len(times), "level": [draw(NUMBERS)] * len(times)}
    return {"timestamp": times, **columns, **once}


def frame_of(transform: Transform, requests: list[Mapping[str, Any]]) -> pl.DataFrame:
    kinds = {name: TYPES[kind] for name, kind in transform.raw.items()}
    parts = [
        pl.DataFrame({name: request[name] for name in kinds}, schema=kinds).with_columns(session_id=pl.lit(f"{n:03d}"))
        for n, request in enumerate(requests)
    ]
    return pl.concat(parts).with_columns(note=pl.lit("unread"))


def reference(run: LoadedRun, dataset: SequenceDataset, row: int) -> dict[str, np.ndarray]:
    stop = int(dataset.offsets[row + 1])
    start = max(int(dataset.offsets[row]), stop - run.max_length)
    found = {f"inputs.{name}": values[start:stop] for name, values in dataset.columns.items()}
    found |= {f"inputs.{name}": values[row] for name, values in dataset.context.items()}
    for name, bag in dataset.bags.items():
        lists = [bag.values[bag.offsets[e] : bag.offsets[e + 1]] for e in range(start, stop)]
        found[f"inputs.{name}"] = np.array([[*ids, *[0] * 9][:9] for ids in lists])
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(sessions(), min_size=1, max_size=5), st.booleans())
def test_equals_what_training_reads(run: LoadedRun, transform: Transform, requests: list[Any], remove: bool) -> None:
    dataset = read_sequences(run, frame_of(transform, requests)).dataset
    gone = seen_items(dataset, np.arange(len(dataset)), dataset.offsets[1:])
    for row, request in enumerate(requests):
        encoded = transform.encode(request, remove_seen=remove)
        expected = reference(run, dataset, row)
        assert {n for n in encoded if n.startswith("inputs.")} == set(expected)
        for name, values in expected.items():
            found = encoded[name]
            if found.ndim == 2:
                found = np.pad(found, ((0, 0), (0, 9 - found.shape[1])))
            if found.dtype == np.float32:
                np.testing.assert_allclose(found, values, rtol=3e-7, atol=1e-7, err_msg=name)
            else:
                assert found.dtype == np.int64
                np.testing.assert_array_equal(found, values, err_msg=name)
        assert int(encoded["lengths"]) == min(len(request["timestamp"]), 6)
        assert encoded["excluded"].tolist() == (np.flatnonzero(gone[row]).tolist() if remove else [0])


def test_a_run_over_every_kind_of_column_is_covered(transform: Transform) -> None:
    assert {c.kind for c in transform.columns} == {"ids", "clock", "bucket", "number"}
    assert {c.name for c in transform.columns if c.once} == {"version", "level"}
    assert transform.raw == {
        "timestamp": "time",
        "item_id": "text",
        "place": "text",
        "tags": "texts",
        "version": "text",
        "merge_count": "number",
        "size": "number",
        "age": "number",
        "level": "number",
    }


def test_collate_pads_on_the_right(transform: Transform) -> None:
    one, two = (transform.encode(request(n)) for n in (1, 4))
    batch = transform.collate([one, two], [3, 5])
    assert batch["lengths"].tolist() == [1, 4] and batch["k"].tolist() == [3, 5]
    assert batch["inputs.item_id"].shape == (2, 4) and batch["inputs.item_id"][0, 1:].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(batch["inputs.item_id"][1], two["inputs.item_id"])
    assert batch["inputs.version"].shape == (2,) and batch["inputs.tags"].ndim == 3
    with_times = {**one, "times": np.array([5, 7])}, {**two, "times": np.array([1, 2, 3])}
    assert transform.collate(with_times, 1)["times"].tolist() == [[5, 7, 7], [1, 2, 3]]
    for name, values in transform.collate([two], 5).items():
        room = (slice(1, 2), *(slice(size) for size in values.shape[1:]))
        np.testing.assert_array_equal(values, batch[name][room])


def request(events: int, **changed: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {name: [f"{name} 1"] * events for name in ("item_id", "place")}
    columns |= {name: [1.0] * events for name in ("merge_count", "size", "age")}
    columns |= {"tags": [["t1"]] * events, "version": "v1", "level": 2.0}
    return {**columns, "timestamp": [NOW + n for n in range(events)], **changed}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"timestamp": []}, "the history is empty"),
        ({"timestamp": [NOW, None, NOW]}, "column 'timestamp', event 2: None"),
        ({"timestamp": [1.0, math.nan, 2.0]}, "column 'timestamp', event 2: nan; expected microseconds"),
        ({"timestamp": [1.0, math.inf, 2.0]}, "column 'timestamp', event 2: inf"),
        ({"timestamp": [1, 2, 10**18]}, "column 'timestamp', event 3: 1000000000000000000"),
        ({"timestamp": [1, -(10**18), 2]}, "column 'timestamp', event 2: -1000000000000000000"),
        ({"timestamp": ["yesterday"] * 3}, "column 'timestamp', event 1: 'yesterday'"),
        ({"timestamp": [[1, 2, 3]]}, "column 'timestamp' has shape [1, 3]"),
        ({"item_id": ["a"]}, "column 'item_id' holds 1 values, 'timestamp' 3"),
        ({"item_id": "abc"}, "column 'item_id' is 'abc'; expected a value for each of 3 events"),
        ({"item_id": ["a", 2.5, "c"]}, "column 'item_id', event 2: 2.5; expected text"),
        ({"item_id": ["a", np.float32(2.5), "c"]}, "column 'item_id', event 2: 2.5; expected text"),
        ({"item_id": ["a", b"\xff\xfe", "c"]}, "column 'item_id', event 2: not UTF-8 text"),
        ({"item_id": np.zeros((3, 2))}, "column 'item_id' holds [3, 2] values"),
        ({"merge_count": [1, "2", 3]}, "column 'merge_count', event 2: '2'; expected a number"),
        ({"merge_count": [1, 2, -1.5]}, "column 'merge_count', event 3: -1.5 has no log1p"),
        ({"merge_count": [3, -1, 2]}, "column 'merge_count', event 2: -1 has no log1p"),
        ({"merge_count": [math.nan, -1, 2]}, "column 'merge_count', event 2: -1 has no log1p"),
        ({"tags": [["a"], "b", []]}, "column 'tags', event 2: 'b'; expected a list of texts"),
        ({"version": ["v1", "v2", "v1"]}, "column 'version' changes within the session"),
        ({"place": ["\ud800"] * 3}, "column 'place': '\\ud800' is no valid text"),
    ],
)
def test_bad_requests_are_named(transform: Transform, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        transform.encode(request(3, **changed))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_of_several_sessions_the_wrong_one_is_named(transform: Transform) -> None:
    good, bad = request(2), request(2, merge_count=[1, "2"])
    assert len(transform.encode_all([good, good], [False, True])) == 2
    message = "session 2: column 'merge_count', event 2: '2'; expected a number"
    with pytest.raises(RequestError, match=re.escape(message)):
        transform.encode_all([good, bad], [False, False])
    with pytest.raises(RequestError, match="^column 'merge_count', event 2"):
        transform.encode_all([bad], [False])


def test_a_number_below_all_counts_as_missing(transform: Transform) -> None:
    """Also where its logarithm is read, which numbers of -1 and below have none of."""
    found, missing = (transform.encode(request(2, merge_count=[n, 3])) for n in (-math.inf, None))
    np.testing.assert_array_equal(found["inputs.merge_count"], missing["inputs.merge_count"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("numbers", [[math.inf, -math.inf, 1.0], [1e308, 1e308, 1.0], [math.nan, math.nan, math.nan]])
def test_numbers_that_have_no_sum(transform: Transform, numbers: list[float]) -> None:
    """Each is read as if it stood alone."""
    column = next(c for c in transform.columns if c.source == "size")
    together = transform.encode(request(3, size=numbers))[f"inputs.{column.name}"].tolist()
    alone = [transform.encode(request(1, size=[n]))[f"inputs.{column.name}"].tolist()[0] for n in numbers]
    assert together == alone


def test_a_gap_below_zero_is_named() -> None:
    columns = [{"name": "a", "kind": "ids", "source": "a"}, {"name": "gap", "kind": "number", "source": "gap"}]
    facts = {"item": "a", "max_length": 2, "needs_times": False, "interval": "timestamp_interval"}
    facts |= {"zone": {"starts": [], "offsets": [0]}, "columns": [columns[0], {**columns[1], "least": 0.0}]}
    transform = Transform(facts, {"a": ["x"]})
    given = {"a": ["x"] * 3, "timestamp": [1, 2, 3]}
    assert transform.encode({**given, "gap": [1, 0, None]})["inputs.gap"].tolist() == [0, 0]
    for gaps in ([1, -0.5, 2], [math.nan, -0.5, 2]):
        with pytest.raises(RequestError, match="column 'gap', event 2: -0.5; expected 0 or more"):
            transform.encode({**given, "gap": gaps})


@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_wrong_is_named_by_its_place_in_the_request(transform: Transform, backwards: bool) -> None:
    items: list[Any] = ["command 03"] * 20
    items[17 if not backwards else 2] = 2.5
    times = [NOW + (-n if backwards else n) for n in range(20)]
    with pytest.raises(RequestError, match=f"column 'item_id', event {3 if backwards else 18}: 2.5; expected text"):
        transform.encode(request(20, item_id=items, timestamp=times))


def test_missing_column_no_session_and_k(transform: Transform) -> None:
    with pytest.raises(RequestError, match="column 'place' is missing; a request holds timestamp, item_id"):
        transform.encode({n: v for n, v in request(2).items() if n != "place"})
    with pytest.raises(RequestError, match="column 'timestamp' is missing"):
        transform.encode({})
    with pytest.raises(RequestError, match="no session"):
        transform.collate([], 1)
    one = transform.encode(request(2))
    for k in (0, -1, True, 2.5, "3", None):
        with pytest.raises(RequestError, match=re.escape(f"k ({k!r}) must be a whole number of at least 1")):
            transform.collate([one], k)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="2 numbers k for 1 sessions"):
        transform.collate([one], [1, 2])
    assert transform.collate([one], 10**30)["k"].tolist() == [len(transform.names)]


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3))
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_comes_is_read_or_refused_in_one_line(transform: Transform, data: st.DataObject) -> None:
    good = request(data.draw(st.integers(1, 3)))
    name = data.draw(st.sampled_from([*good, None]))
    value = data.draw(st.one_of(ANYTHING, st.lists(ANYTHING, min_size=1, max_size=3)))
    given = value if name is None else {**good, name: value}
    try:
        batch = transform.collate([transform.encode(given)], 2)
    except RequestError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    assert all(v.dtype in (np.int64, np.float32) for v in batch.values())
    assert all(np.isfinite(v).all() or name in ("size", "level") for v in batch.values())


def test_forms_of_times_and_texts_that_mean_the_same(transform: Transform) -> None:
    whole = transform.encode(request(3, timestamp=[NOW, NOW + 500_000, NOW + 1_500_000]))
    seconds = transform.encode(request(3, timestamp=np.array([NOW, NOW + 500_000, NOW + 1_500_000]) / 1e6))
    raw = transform.encode(request(3, item_id=[b"item_id 1"] * 3, timestamp=[NOW, NOW + 500_000, NOW + 1_500_000]))
    kept = {name: deque(values) if isinstance(values, list) else values for name, values in request(3).items()}
    kept |= {"timestamp": deque([NOW, NOW + 500_000, NOW + 1_500_000]), "place": np.array(["place 1"] * 3)}
    live = transform.encode(kept)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, seconds[name])
        np.testing.assert_array_equal(values, raw[name])
        np.testing.assert_array_equal(values, live[name])


def test_ten_thousand_events(transform: Transform) -> None:
    long = request(10_000, item_id=["command 03"] * 9_990 + ["command 05"] * 10)
    encoded = transform.encode(long, remove_seen=True)
    assert int(encoded["lengths"]) == 6 and len(encoded["excluded"]) == 2


def test_decode_stops_where_candidates_end(transform: Transform) -> None:
    rows = transform.decode(np.array([[3, 4, -1], [-1, -1, -1]]), np.array([[2.0, 1.0, -np.inf]] * 2))
    assert rows == [([transform.names[3], transform.names[4]], [2.0, 1.0]), ([], [])]


def test_the_file_alone_is_enough(transform: Transform, run: LoadedRun, tmp_path: Path) -> None:
    """Copied beside a bundle's files it runs without this project, PyTorch and Polars."""
    copied = tmp_path / "copied_transform.py"
    copied.write_text(Path(module.__file__).read_text())
    facts = {"item": "a", "max_length": 2, "needs_times": False, "interval": "gap", "vocabularies": {"a": "a.json"}}
    facts |= {"zone": {"starts": [], "offsets": [0]}, "columns": [{"name": "a", "kind": "ids", "source": "a"}]}
    (tmp_path / "transform.json").write_text(json.dumps(facts))
    (tmp_path / "a.json").write_text('["x", "y"]')
    code = (
        "import sys; from copied_transform import Transform; t = Transform.load('.')\n"
        "print(t.encode({'a': ['y', 'q', 'x'], 'timestamp': [3, 1, 2]})['inputs.a'].tolist())\n"
        "print([m for m in ('recsys', 'torch', 'polars', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[3, 4]", "[]"]
