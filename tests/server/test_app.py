"""The endpoints over real connections: answers equal the bundle's, and what is refused is refused in one line."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.client import Client
from recsys.errors import InputError
from recsys.inference import recommend
from recsys.serving.bundle import Answer, Bundle
from recsys.serving.verify import difference, read_golden
from tests.tiny_bundle import make_rich_events
from tests.tiny_server import Reply, Served

INFER = "/v2/models/recommend/infer"
MARKS = ("/home", "/tmp", "/work", ".py", "Traceback", "onnx", 'File "')


def body_of(bundle: Bundle, sessions: list[Any], **changes: Any) -> dict[str, Any]:
    """A JSON request, made without the client: `changes` replaces members of inputs (None: leaves the input out)."""
    once = {c.source for c in bundle.transform.columns if c.once}
    longest, inputs = max(len(s["timestamp"]) for s in sessions), []
    for name, kind in bundle.manifest["requests"].items():
        rows = []
        for session in sessions:
            values = session[name][:1] if name in once else session[name]
            if kind == "texts":
                values = ["" if v is None else json.dumps(v) for v in values]
            elif kind == "text":
                values = [v or "" for v in values]
            filler = {"number": None, "time": 0}.get(kind, "")
            rows.append(values if name in once else [*values, *[filler] * (longest - len(values))])
        datatype = {"time": "INT64", "number": "FP64"}.get(kind, "BYTES")
        inputs.append({"name": name, "datatype": datatype, "shape": [len(rows), len(rows[0])], "data": rows})
    count = len(sessions)
    lengths = [len(s["timestamp"]) for s in sessions]
    inputs.append({"name": "lengths", "datatype": "INT32", "shape": [count, 1], "data": lengths})
    inputs.append({"name": "k", "datatype": "INT32", "shape": [count, 1], "data": [3] * count})
    for name, change in changes.items():
        inputs = [i if i["name"] != name else i | (change or {}) for i in inputs if i["name"] != name or change]
    return {"inputs": inputs}


def outputs_of(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply.body
    return {o["name"]: o for o in reply.json["outputs"]}


def error_of(reply: Reply) -> str:
    """The line that a refusal holds; nothing of the machine is in it."""
    text = reply.json["error"]
    assert isinstance(text, str) and "\n" not in text and 0 < len(text) < 400
    assert not [mark for mark in MARKS if mark in text]
    return text


# What it is.


def test_it_says_what_it_is(served: Served) -> None:
    about = served.ask("GET", "/v2").json
    assert about["name"] == "recsys-local" and "triton" not in json.dumps(about).lower()
    assert about["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/recommend/ready"):
        assert served.ask("GET", path).status == 200


def test_metadata_names_the_inputs(served: Served, bundle: Bundle) -> None:
    metadata = served.ask("GET", "/v2/models/recommend").json
    assert metadata == served.ask("GET", "/v2/models/recommend/versions/1").json
    inputs = {i["name"]: (i["datatype"], i["shape"]) for i in metadata["inputs"]}
    assert set(inputs) == {*bundle.manifest["requests"], "lengths", "k", "remove_seen"}
    assert inputs["timestamp"] == ("INT64", [-1, -1]) and inputs["tags"] == ("BYTES", [-1, -1])
    assert inputs["version"] == ("BYTES", [-1, 1]) and inputs["level"] == ("FP64", [-1, 1])
    assert [o["name"] for o in metadata["outputs"]] == ["items", "scores", "probabilities"]


# Answers.


def test_json_answers_are_those_of_the_bundle(served: Served, bundle: Bundle, golden: list[Any]) -> None:
    sessions = [r["columns"] for r in golden]
    right = bundle.recommend(sessions, 3)
    reply = served.ask("POST", INFER, {**body_of(bundle, sessions), "id": "42"})
    found = outputs_of(reply)
    assert reply.json["model_name"] == "recommend" and reply.json["id"] == "42"
    assert found["items"]["shape"] == [12, 3]
    assert found["items"]["data"] == [name for answer in right for name in answer.items]
    assert found["scores"]["data"] == [score for answer in right for score in answer.scores]
    assert found["probabilities"]["data"] == [share for answer in right for share in answer.probabilities]


def test_golden_requests_have_their_answers_through_the_client(served: Served, folder: Path, bundle: Bundle) -> None:
    requests, answers, k = read_golden(folder)
    with Client(served.url) as client:
        for request, right in zip(requests, answers, strict=True):
            seen = request["remove_seen"]
            found = client.recommend(request["columns"], k, remove_seen=seen)
            same = bundle.recommend([request["columns"]], k, remove_seen=seen)[0]
            assert (found.items, found.scores, found.probabilities) == (same.items, same.scores, same.probabilities)
            answer = Answer(found.items, found.scores, found.probabilities)
            assert difference(answer, right, float(bundle.manifest["tolerance"])) is None


def test_answers_are_those_of_recommend_offline(served: Served, run: Path, bundle: Bundle) -> None:
    events = make_rich_events(sessions=9)
    lists = recommend(run, events, k=4)
    names = list(bundle.manifest["requests"])
    sessions = events.partition_by("session_id", maintain_order=True)
    with Client(served.url, batch=4) as client:
        found = client.recommend_batch([s.select(names).to_dict(as_series=False) for s in sessions], 4)
    assert len(found) == 9
    for session, answer in zip(sessions, found, strict=True):
        rows = lists.filter(pl.col("session_id") == session["session_id"][0])
        right = Answer(rows["item_id"].to_list(), rows["score"].to_list(), rows["probability"].to_list())
        assert difference(Answer(answer.items, answer.scores, answer.probabilities), right, 1e-4) is None


def test_each_session_has_its_own_k_and_flag(served: Served, bundle: Bundle, golden: list[Any]) -> None:
    sessions = [golden[n]["columns"] for n in (3, 4, 5)]
    body = body_of(bundle, sessions, k={"data": [1, 2, 4]})
    body["inputs"].append({"name": "remove_seen", "datatype": "BOOL", "shape": [3, 1], "data": [False, True, False]})
    found = outputs_of(served.ask("POST", INFER, body))
    wanted = zip(sessions, (1, 2, 4), (False, True, False), strict=True)
    right = [bundle.recommend([session], k, remove_seen=seen)[0] for session, k, seen in wanted]
    rows = [found["items"]["data"][n * 4 : n * 4 + 4] for n in range(3)]
    assert rows == [a.items + [""] * (4 - len(a.items)) for a in right]
    assert found["scores"]["data"][1:4] == [None] * 3 and found["probabilities"]["data"][1:4] == [0.0] * 3


def test_the_wrong_session_is_named_among_others_with_other_flags(
    served: Served, bundle: Bundle, golden: list[Any]
) -> None:
    sessions = [golden[n]["columns"] for n in (3, 4, 5)]
    late = {**sessions[2], "timestamp": [2**62] * len(sessions[2]["timestamp"])}
    body = body_of(bundle, [*sessions[:2], late])
    body["inputs"].append({"name": "remove_seen", "datatype": "BOOL", "shape": [3, 1], "data": [False, True, False]})
    reply = served.ask("POST", INFER, body)
    assert reply.status == 400 and f"session 3: column 'timestamp', event 1: {2**62}" in error_of(reply)
    with pytest.raises(InputError, match="2 values of remove_seen for 3 sessions; give one a session"):
        bundle.recommend(sessions, 3, remove_seen=[True, False])


@pytest.mark.parametrize("k", [900, 2**31 - 1])
def test_k_above_the_catalogue_gives_the_catalogue(served: Served, bundle: Bundle, golden: list[Any], k: int) -> None:
    catalogue = {name for name in bundle.transform.names if name is not None}
    found = outputs_of(served.ask("POST", INFER, body_of(bundle, [golden[0]["columns"]], k={"data": [k]})))
    assert found["items"]["shape"] == [1, len(bundle.transform.names)]
    with Client(served.url) as client:
        assert set(client.recommend(golden[0]["columns"], k).items) == catalogue


def test_chosen_outputs_in_the_chosen_form(served: Served, bundle: Bundle, golden: list[Any]) -> None:
    body = body_of(bundle, [golden[0]["columns"]])
    body["outputs"] = [{"name": "scores", "parameters": {"binary_data": True}}]
    reply = served.ask("POST", INFER, body)
    head = int(reply.headers["inference-header-content-length"])
    assert [o["name"] for o in json.loads(reply.body[:head])["outputs"]] == ["scores"]
    right = bundle.recommend([golden[0]["columns"]], 3)[0].scores
    assert memoryview(reply.body[head:]).cast("f").tolist() == right


# Histories out of the ordinary.


def test_unknown_items_only_and_ten_thousand_events(served: Served, bundle: Bundle, golden: list[Any]) -> None:
    unknown = {**golden[0]["columns"], "item_id": ["never seen"]}
    long = {name: [values[n % len(values)] for n in range(10_000)] for name, values in golden[4]["columns"].items()}
    long["timestamp"] = [1_600_000_000_000_000 + n * 10**6 for n in range(10_000)]
    with Client(served.url) as client:
        for session in (unknown, long):
            assert client.recommend(session, 5).items == bundle.recommend([session], 5)[0].items != []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lengths": {"data": [0]}}, "the history is empty"),
        ({"timestamp": {"data": [float("nan")] * 3}}, "tensor 'timestamp', value 1: nan; expected INT64"),
        ({"timestamp": {"data": [2**62] * 3}}, f"'timestamp', event 1: {2**62}; expected micro"),
        ({"timestamp": {"datatype": "FP64"}}, "input 'timestamp' has datatype FP64; expected INT64"),
        ({"merge_count": {"data": ["1"] * 3}}, "tensor 'merge_count', value 1: '1'; expected FP64"),
        ({"merge_count": {"data": [-5.0] * 3}}, "column 'merge_count', event 1: -5"),
        ({"item_id": {"shape": [3, 1], "data": [""] * 3}}, "input 'item_id' has shape [3, 1]; expected [1, 3]"),
        ({"item_id": None}, "input 'item_id' is missing"),
        ({"k": {"data": [0]}}, "k (0) must be a whole number of at least 1"),
        ({"k": {"data": [-3]}}, "k (-3) must be a whole number of at least 1"),
        ({"k": {"data": [True]}}, "tensor 'k', value 1: True; expected INT32"),
        ({"tags": {"data": ["x"] * 3}}, "expected a JSON list of texts"),
        ({"tags": {"data": [json.dumps(["t"] * 100_000)] * 3}}, "longest list of 'tags' holds 100,000"),
        ({"timestamp": {"shape": [65, 0], "data": []}}, "has 65 sessions and this server takes 64"),
        ({"timestamp": {"shape": [1, 10**6], "data": [0] * 10**6}}, "events, padding counted, and this server takes"),
    ],
)
def test_bad_requests(served: Served, bundle: Bundle, golden: list[Any], changes: Any, reason: str) -> None:
    reply = served.ask("POST", INFER, body_of(bundle, [golden[1]["columns"]], **changes))
    assert reply.status == 400 and reason in error_of(reply)


def test_text_that_is_no_utf8(served: Served, bundle: Bundle, golden: list[Any]) -> None:
    body = body_of(bundle, [golden[0]["columns"]], item_id={"parameters": {"binary_data_size": 5}, "data": None})
    head = json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    reply = served.ask("POST", INFER, head + b"\x01\0\0\0\xff", headers)
    assert reply.status == 400 and error_of(reply) == "input 'item_id', session 1, event 1: not UTF-8 text"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "reason"),
    [
        ("POST", INFER, b"{", {}, 400, "no JSON"),
        ("POST", INFER, b"", {}, 400, "no JSON"),
        ("POST", INFER, {"inputs": [], "outputs": [{"name": "x"}]}, {}, 400, "output 'x' is unknown"),
        ("POST", INFER, b"{}", {"Content-Encoding": "gzip"}, 415, "compressed"),
        ("POST", INFER, b"{}", {"Inference-Header-Content-Length": "9"}, 400, "expected a number up to 2"),
        ("POST", "/v2/models/x%0Ay/infer", b"{}", {}, 404, "is unknown; this server has 'recommend'"),
        ("GET", "/v2/models/other/ready", None, {}, 404, "model 'other' is unknown"),
        ("GET", "/v2/models/recommend/versions/2", None, {}, 404, "version '2' is unknown"),
        ("GET", INFER, None, {}, 405, "Method Not Allowed"),
        ("GET", "/v2/repository/../../etc/passwd", None, {}, 404, "Not Found"),
    ],
)
def test_bad_calls(
    served: Served, method: str, path: str, body: Any, headers: dict[str, str], status: int, reason: str
) -> None:
    reply = served.ask(method, path, body, headers)
    assert reply.status == status and reason in error_of(reply)


def test_a_failure_inside_tells_nothing(served: Served, monkeypatch: pytest.MonkeyPatch, golden: list[Any]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("/home/secret/model.onnx is broken")

    monkeypatch.setattr(served.app.model.bundle, "recommend", fail)
    with Client(served.url, retries=0) as client, pytest.raises(ValueError, match="status 500: the server failed"):
        client.recommend(golden[0]["columns"])
    monkeypatch.undo()
    with Client(served.url) as client:
        assert client.recommend(golden[0]["columns"]).items


def test_metrics_count(served: Served, bundle: Bundle, golden: list[Any]) -> None:
    def counts() -> dict[str, float]:
        reply = served.ask("GET", "/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = [line.rsplit(" ", 1) for line in reply.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    before = counts()
    served.ask("POST", INFER, body_of(bundle, [r["columns"] for r in golden[:5]]))
    served.ask("POST", INFER, b"{")
    after = counts()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown['recsys_requests_total{code="200"}'] == grown['recsys_requests_total{code="400"}'] == 1
    assert grown["recsys_sessions_total"] == 5 and grown["recsys_request_seconds_count"] == 2
    assert grown['recsys_request_seconds_bucket{le="+Inf"}'] == 2 and after["recsys_requests_running"] == 0
