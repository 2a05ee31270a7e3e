"""Sessions to tensors and back; bodies in JSON and binary against bytes written by hand."""

import json
import math
import struct
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving import kserve, wire
from recsys.serving.wire import Field, WireError

FIELDS = [
    Field("timestamp", "time"),
    Field("item_id", "text"),
    Field("tags", "texts"),
    Field("size", "number"),
    Field("version", "text", once=True),
    Field("level", "number", once=True),
]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)
EVENT = st.tuples(
    st.integers(-(10**15), 10**15),
    st.none() | TEXT,
    st.none() | st.lists(st.none() | TEXT, max_size=3),
    st.none() | st.floats(allow_infinity=False),
)
SESSION = st.tuples(st.lists(EVENT, min_size=1, max_size=4), st.none() | TEXT, st.none() | st.floats())


def session_of(events: list[Any], version: str | None, level: float | None) -> dict[str, Any]:
    names = ("timestamp", "item_id", "tags", "size")
    columns: dict[str, Any] = dict(zip(names, map(list, zip(*events, strict=True)), strict=True))
    return {**columns, "version": version, "level": level}


def known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def transport(tensors: dict[str, wire.Array], binary: bool) -> dict[str, wire.Array]:
    body, length = kserve.dump("inputs", tensors, binary)
    return kserve.load("inputs", body, None if length is None else str(length)).tensors


@given(st.lists(SESSION, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_sessions_come_out_as_they_went_in(drawn: list[Any], binary: bool, seen: bool) -> None:
    sessions = [session_of(*parts) for parts in drawn]
    tensors = transport(wire.to_tensors(FIELDS, sessions, 3, seen), binary)
    found, wanted, left_out = wire.from_tensors(FIELDS, tensors)
    assert wanted == [3] * len(sessions) and left_out == [seen] * len(sessions)
    for session, read in zip(sessions, found, strict=True):
        events = len(session["timestamp"])
        for name in ("timestamp", "item_id", "tags"):
            assert list(read[name]) == session[name]
        assert [known(v) for v in read["size"].tolist()] == [known(v) for v in session["size"]]
        assert read["version"] == [session["version"]] * events
        level = known(session["level"])
        if binary or level is None or math.isfinite(level):
            assert [known(v) for v in read["level"]] == [level] * events


def test_rows_are_padded_on_the_right() -> None:
    fields = FIELDS[:2]
    sessions = [{"timestamp": [5], "item_id": ["a"]}, {"timestamp": [1.5, 2.25], "item_id": ["b", None]}]
    tensors = wire.to_tensors(fields, sessions, 2)
    assert tensors["timestamp"].tolist() == [[5, 0], [1_500_000, 2_250_000]]
    assert tensors["item_id"].tolist() == [[b"a", b""], [b"b", b""]]
    assert tensors["lengths"].tolist() == [[1], [2]] and tensors["k"].tolist() == [[2], [2]]
    assert "remove_seen" not in tensors


def test_answers_are_filled_up_to_the_largest_k() -> None:
    answers = [
        SimpleNamespace(items=["ä"], scores=[0.1], probabilities=[0.9]),
        SimpleNamespace(items=[], scores=[], probabilities=[]),
    ]
    tensors = wire.answer_tensors(answers, [1, 3])
    assert tensors["items"].tolist() == [["ä".encode(), b"", b""], [b""] * 3]
    assert tensors["scores"].tolist() == [[float(np.float32(0.1)), -math.inf, -math.inf], [-math.inf] * 3]
    assert tensors["probabilities"].tolist()[1] == [0.0] * 3
    assert wire.read_answers(tensors, 2) == [(["ä"], [float(np.float32(0.1))], [float(np.float32(0.9))]), ([], [], [])]


def test_binary_bytes_are_those_of_the_extension() -> None:
    """https://github.com/kserve/open-inference-protocol: little endian; a text is its length in 4 bytes, then it."""
    tensors = {"t": np.array([[b"ab", b""]], dtype=object), "n": np.array([[7]], dtype=np.int32)}
    body, length = kserve.dump("inputs", tensors, True, {"id": "x"})
    assert body[length:] == b"\x02\0\0\0ab" + b"\0\0\0\0" + b"\x07\0\0\0"
    assert json.loads(body[:length]) == {
        "id": "x",
        "inputs": [
            {"name": "t", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 10}},
            {"name": "n", "datatype": "INT32", "shape": [1, 1], "parameters": {"binary_data_size": 4}},
        ],
    }


def test_json_holds_no_nan_and_may_be_nested() -> None:
    body, length = kserve.dump("outputs", {"s": np.array([[1.5, -np.inf, np.nan]], dtype=np.float32)}, False)
    assert length is None and json.loads(body)["outputs"][0]["data"] == [1.5, None, None]
    for data in ([[1, 2], [3, 4]], [1, 2, 3, 4]):
        entry = {"name": "n", "datatype": "INT64", "shape": [2, 2], "data": data}
        assert kserve.load("inputs", json.dumps({"inputs": [entry]}).encode()).tensors["n"].tolist() == [[1, 2], [3, 4]]


def test_wishes_are_read() -> None:
    wanted = [{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}]
    message = kserve.load("inputs", json.dumps({"inputs": [], "outputs": wanted, "id": "7"}).encode())
    assert message.outputs == {"a": True, "b": False} and message.id == "7" and not message.binary


def of(**entry: Any) -> bytes:
    full = {"name": "n", "datatype": "INT32", "shape": [1, 2], "data": [1, 2], **entry}
    return json.dumps({"inputs": [{name: value for name, value in full.items() if value is not ...}]}).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "no JSON in UTF-8"),
        (b"\xff\xfe", "no JSON in UTF-8"),
        (b"[" * 100_000, "no JSON in UTF-8"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "no JSON in UTF-8"),
        (b"[1]", "no JSON object with a list 'inputs'"),
        (b'{"inputs": [3]}', "'inputs' holds 3; expected an object"),
        (of(datatype="FP8"), "has datatype 'FP8'; known"),
        (of(datatype=[]), r"has datatype \[\]; known"),
        (of(shape=[-1, 2]), r"has shape \[-1, 2\]"),
        (of(shape=[True, 2]), r"has shape \[True, 2\]"),
        (of(shape=[1, 2, 1]), "expected 1 or 2 whole numbers"),
        (of(shape=[2**40, 2]), "has shape"),
        (of(data=...), "has no list 'data'"),
        (of(data=[1]), r"holds 1 values; its shape \[1, 2\] has 2"),
        (of(data=[[1, 2], [3, 4]]), r"holds 2 lists; its shape \[1, 2\] says 1"),
        (of(data=[[1], [2]], shape=[2, 2]), "are not of shape"),
        (of(data=[1, "2"]), "value 2: '2'; expected INT32"),
        (of(data=[1, True]), "value 2: True; expected INT32"),
        (of(data=[1, math.nan]), "value 2: nan; expected INT32"),
        (of(data=[1, 2**31]), "beyond INT32"),
        (of(datatype="BYTES", data=["a", "\ud800"]), "text that is no Unicode"),
        (of(parameters=[1]), "parameters of 'n' are"),
        (of(parameters={"binary_data_size": 4}), "binary_data_size is 4; 0 bytes are left"),
        (of()[:-2] + b"," + of()[len('{"inputs": [') :], "'n' is given twice"),
    ],
)
def test_what_is_no_message(body: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        kserve.load("inputs", body)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def binary(data: bytes, datatype: str, shape: list[int], size: int | None = None) -> tuple[bytes, str]:
    entry = {"name": "n", "datatype": datatype, "shape": shape}
    parameters = {"binary_data_size": len(data) if size is None else size}
    head = json.dumps({"inputs": [{**entry, "parameters": parameters}]}).encode()
    return head + data, str(len(head))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (binary(b"1234", "INT32", [1, 2]), r"has 4 bytes; its shape \[1, 2\] needs 8"),
        (binary(struct.pack("<I", 2**32 - 1) + b"a", "BYTES", [1, 1]), "value 1 is longer than what is left"),
        (binary(b"\0\0", "BYTES", [1, 1]), "value 1 is longer than what is left"),
        (binary(b"\0\0\0\0", "BYTES", [1, 2]), "holds 1 values"),
        (binary(b"\0\0\0\0" * 3, "BYTES", [1, 2]), "holds 3 values"),
        (binary(b"1234", "INT32", [1, 1], 3), "has 3 bytes"),
        (binary(b"12345678", "INT32", [1, 1], 4), "4 bytes stand behind the last tensor"),
        ((b"{}", "3"), "expected a number up to 2"),
        ((b"{}", "-1"), "expected a number up to 2"),
        ((b"{}", "٢"), "expected a number up to 2"),
    ],
)
def test_what_is_no_binary_message(message: tuple[bytes, str], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        kserve.load("inputs", *message)


@given(st.binary(max_size=200), st.none() | st.integers(0, 200).map(str))
def test_any_bytes_are_read_or_refused(body: bytes, length: str | None) -> None:
    try:
        kserve.load("inputs", body, length)
    except WireError as error:
        assert "\n" not in str(error)


GOOD = {"timestamp": [1, 2], "item_id": ["a", "b"], "tags": [[], ["x"]], "size": [1, 2.5], "version": "v", "level": 3}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timestamp": []}, "the history is empty"),
        ({"timestamp": 3}, "column 'timestamp' is 3; expected one time an event"),
        ({"timestamp": [1.0, math.nan]}, "column 'timestamp', event 2: nan; expected microseconds"),
        ({"timestamp": [1, 10**18]}, "column 'timestamp', event 2: 1000000000000000000; expected microseconds"),
        ({"timestamp": [-(10**18), 1]}, "column 'timestamp', event 1: -1000000000000000000; expected microseconds"),
        ({"timestamp": ["a", 2]}, "column 'timestamp', event 1: 'a'; expected"),
        ({"timestamp": [1, 10**30]}, "column 'timestamp', event"),
        ({"item_id": ["a"]}, "column 'item_id' holds 1 values, 'timestamp' 2"),
        ({"item_id": "ab"}, "column 'item_id' holds 'ab', 'timestamp' 2"),
        ({"item_id": ["a", 1.5]}, "column 'item_id', event 2: 1.5; expected text"),
        ({"item_id": ["a", "\udcff"]}, "column 'item_id', event 2: .*; expected text in UTF-8"),
        ({"tags": [["a"], [b"\xff"]]}, "column 'tags', event 2: .*; expected text in UTF-8"),
        ({"size": [1, "2"]}, "column 'size', event 2: '2'; expected a number"),
        ({"version": ["v", "w"]}, "column 'version' changes within the session"),
        ({"level": [1, 2]}, "column 'level' changes within the session"),
    ],
)
def test_a_client_hears_what_is_wrong_before_it_sends(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        wire.to_tensors(FIELDS, [GOOD | change], 3)
    assert "\n" not in str(caught.value)
    with pytest.raises(WireError, match="column 'size' is missing; a history holds timestamp"):
        wire.to_tensors(FIELDS, [{n: v for n, v in GOOD.items() if n != "size"}], 3)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3", 2**31])
def test_k_is_a_whole_number(k: Any) -> None:
    with pytest.raises(WireError, match="must be a whole number of at least 1"):
        wire.to_tensors(FIELDS, [GOOD], k)


def test_a_number_of_numpy_is_shown_as_a_number() -> None:
    with pytest.raises(WireError, match=r"k \(0\) must be a whole number"):
        wire.to_tensors(FIELDS, [GOOD], np.int64(0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k": None}, "input 'k' is missing; the model reads timestamp"),
        ({"colour": np.zeros((1, 2))}, "input 'colour' is unknown; the model reads"),
        ({"timestamp": np.zeros((1, 2))}, "input 'timestamp' has datatype FP64; expected INT64"),
        ({"size": np.zeros((1, 3))}, r"input 'size' has shape \[1, 3\]; expected \[1, 2\]"),
        ({"size": np.zeros(2)}, r"input 'size' has shape \[2\]; expected 2 numbers"),
        ({"level": np.zeros((1, 2))}, r"input 'level' has shape \[1, 2\]; expected \[1, 1\]"),
        ({"lengths": np.array([[3]], dtype=np.int32)}, "input 'lengths', session 1: 3; expected 0 to 2"),
        ({"lengths": np.array([[-1]], dtype=np.int32)}, "input 'lengths', session 1: -1; expected 0 to 2"),
        ({"item_id": np.array([[b"a", b"\xff"]], dtype=object)}, "input 'item_id', session 1, event 2: not UTF-8"),
        ({"tags": np.array([[b"a", b""]], dtype=object)}, "event 1: b'a'; expected a JSON list of texts"),
        ({"tags": np.array([[b"", b"[1]"]], dtype=object)}, "event 2: .*; expected a JSON list of texts"),
        ({"tags": np.array([[b"", b"[" * 99_999]], dtype=object)}, "event 2: .*; expected a JSON list of texts"),
    ],
)
def test_a_server_hears_what_is_wrong(change: dict[str, Any], reason: str) -> None:
    tensors = {name: t for name, t in (wire.to_tensors(FIELDS, [GOOD], 3) | change).items() if t is not None}
    with pytest.raises(WireError, match=reason) as caught:
        wire.from_tensors(FIELDS, tensors)
    assert "\n" not in str(caught.value)


def test_a_request_without_a_session_is_refused() -> None:
    tensors = {name: tensor[:0] for name, tensor in wire.to_tensors(FIELDS, [GOOD], 3).items()}
    with pytest.raises(WireError, match="no session in the request"):
        wire.from_tensors(FIELDS, tensors)


def test_fields_come_back_out_of_the_metadata() -> None:
    inputs, outputs = wire.signature(FIELDS)
    found = wire.fields_of_metadata({"inputs": inputs, "outputs": outputs})
    assert found == [Field(f.name, "text" if f.kind == "texts" else f.kind, f.once) for f in FIELDS]
    for wrong in ({}, {"inputs": [1], "outputs": []}, {"inputs": inputs, "outputs": []}):
        with pytest.raises(WireError, match="recsys"):
            wire.fields_of_metadata(wrong)


def test_the_file_stands_alone() -> None:
    code = "import sys; sys.path[:0] = ['recsys/serving']; import wire; print('recsys' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "tags", [[["t"] * 40] * 3, [["t"], ["t"] * 40, []], ["t," * 19 + "t"] * 3, [None, None, ["t"] * 40]]
)
def test_lists_of_which_the_model_would_read_too_much(tags: list[Any]) -> None:
    """Three events of two sessions, of which the model reads the newest two, with a longest list of 40 values."""
    sessions = [{"timestamp": [1, 2, 3], "tags": tags}, {"timestamp": [1], "tags": [[]]}]
    wire.check_lists(FIELDS[:1] + FIELDS[2:3], sessions, 2, 2 * 2 * 40)
    with pytest.raises(WireError, match=r"the longest list of 'tags' holds 40 values; with 2 events of 2 sessions"):
        wire.check_lists(FIELDS[:1] + FIELDS[2:3], sessions, 2, 2 * 2 * 40 - 1)
