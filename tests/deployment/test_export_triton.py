"""The Triton repository: what is in it, and that its steps, run here without Triton, answer as the bundle does."""

import importlib.util
import json
import re
import shutil
import sys
import types
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from deployment.export_triton import COPIES, STEPS, Settings, export_triton, main
from recsys.errors import ConfigError, InputError
from recsys.serving import integrity, wire
from recsys.serving.bundle import Answer, Bundle
from recsys.serving.verify import difference, read_golden
from tests.shared_bundle import shared_bundle

SIZES = {"TYPE_INT64": 8, "TYPE_FP64": 8, "TYPE_INT32": 4, "TYPE_FP32": 4, "TYPE_BOOL": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_bundle(tmp_path_factory).bundle


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_triton(bundle, tmp_path_factory.mktemp("triton") / "models", Settings(version=3, instances=2))


@pytest.fixture
def load(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import model.py of a step as Triton does, with a stand-in for Triton's own module."""
    stand_in: Any = types.ModuleType("triton_python_backend_utils")
    stand_in.triton_string_to_numpy = lambda name: np.float32
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    names = [Path(name).stem for name in COPIES]
    path = list(sys.path)

    def find(step: str) -> Any:
        for name in names:
            sys.modules.pop(name, None)
        spec: Any = importlib.util.spec_from_file_location(f"model_{step}", repository / step / "3" / "model.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, f"model_{step}", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    yield find
    sys.path[:] = path
    for name in names:
        sys.modules.pop(name, None)


def step_of(module: Any, name: str) -> Any:
    return module.make_step(name, module.integrity.check(module.BUNDLE), 1)


def tensors_of(bundle: Path) -> tuple[list[dict[str, Any]], list[Answer]]:
    """Every golden request as tensors, and the answers to them."""
    transform = Bundle.open(bundle).transform
    fields = wire.fields_of(transform.raw, {c.source for c in transform.columns if c.once})
    requests, answers, k = read_golden(bundle)
    return [wire.to_tensors(fields, [r["columns"]], k, r["remove_seen"]) for r in requests], answers


def assert_answers(found: list[Any], wanted: list[Answer]) -> None:
    for tensors, right in zip(found, wanted, strict=True):
        read = wire.read_answers({n: np.asarray(v) for n, v in tensors.items()}, 1)[0]
        assert difference(Answer(*read), right, 1e-5) is None


def test_repository_holds_what_each_step_needs_and_no_more(repository: Path, bundle: Path) -> None:
    manifest = integrity.check(repository)
    assert {path.name for path in repository.iterdir()} == {*STEPS, "ensemble", integrity.MANIFEST}
    whole = integrity.read_manifest(bundle)
    assert manifest["graphs"] == whole["graphs"]
    files = {}
    for step in STEPS:
        part = integrity.check(repository / step / "3" / "bundle")
        assert part["bundle_sha256"] == whole["sha256"]
        files[step] = set(part["files"])
        for name in COPIES:
            source = Path(integrity.__file__).parent / name
            assert (repository / step / "3" / name).read_bytes() == source.read_bytes()
    assert files["embed"] == {"embed.onnx", "weights.data", "tables/streams.npy"}
    assert files["rank"] == {"rank.onnx", "weights.data", "tables/output.npy"}
    assert files["transform"] == files["decode"] == {n for n in whole["files"] if n.startswith(("tr", "voc"))}
    assert files["fused"] > files["transform"] | {"fused.onnx", "golden.json", "tables/streams.npy"}


def test_steps_together_answer_as_the_bundle(load: Any, bundle: Path) -> None:
    """Requests of every length run as one batch."""
    requests, wanted = tensors_of(bundle)
    modules = {name: load(name) for name in STEPS[:-1]}
    steps = {name: step_of(module, name) for name, module in modules.items()}
    encoded = steps["transform"].answer(requests)
    assert len({batch["inputs.item_id"].shape for batch in encoded}) > 2
    vectors = steps["embed"].answer(encoded)
    for batch, found in zip(encoded, vectors, strict=True):
        assert found["vectors"].shape[:2] == batch["inputs.item_id"].shape
    ranked = steps["rank"].answer([{**b, **v} for b, v in zip(encoded, vectors, strict=True)])
    named = steps["decode"].answer(ranked)
    assert [list(n) for n in named] == [["items"]] * len(requests)
    assert_answers([{**r, **n} for r, n in zip(ranked, named, strict=True)], wanted)


def test_fused_answers_the_others_where_a_request_is_wrong(load: Any, bundle: Path) -> None:
    requests, wanted = tensors_of(bundle)
    wrong = {**requests[0], "k": np.zeros((1, 1), np.int32)}
    strange = {**requests[2], "item_id": np.full_like(requests[2]["item_id"], b"\xff")}
    found = step_of(load("fused"), "fused").answer([wrong, *requests, strange])
    assert "k (0)" in str(found[0])
    assert "not UTF-8" in str(found[-1])
    assert_answers(found[1:-1], wanted)
    alone = step_of(load("fused"), "fused").answer([wrong])
    assert [isinstance(answer, ValueError) for answer in alone] == [True]


class Refusal:
    """What Triton has for errors."""

    INTERNAL = 13

    def __init__(self, text: str, code: int) -> None:
        self.text = text


def batches_of(run: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[int, ...]]]:
    """Shapes of what the step's graph runs from now on, a batch each."""
    seen: list[dict[str, tuple[int, ...]]] = []
    plain = run.graph.run

    def note(batch: dict[str, Any]) -> dict[str, Any]:
        seen.append({name: values.shape for name, values in batch.items()})
        found: dict[str, Any] = plain(batch)
        return found

    monkeypatch.setattr(run.graph, "run", note)
    return seen


def test_one_long_list_does_not_make_those_of_a_whole_batch_as_long(
    load: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests that may be asked alone must not fill the memory because they were asked together."""
    module = load("fused")
    step, (requests, wanted) = step_of(module, "fused"), tensors_of(bundle)
    batches = batches_of(step.run, monkeypatch)
    longest = {**requests[0], "tags": requests[0]["tags"].copy()}
    longest["tags"][0, -1] = json.dumps([f"t{n}" for n in range(900)]).encode()
    monkeypatch.setattr(module.wire, "MOST_VALUES", 2_000)
    found = step.answer([*requests[1:], longest, *requests[1:]])
    lists = [b["inputs.tags"] for b in batches]
    assert max(prod(shape) for shape in lists if shape[0] > 1) <= 2_000 and sum(shape[0] for shape in lists) == len(
        found
    )
    assert 1 < len(batches) < len(found)
    assert_answers(found[: len(requests) - 1] + found[len(requests) :], [*wanted[1:], *wanted[1:]])


def test_requests_of_a_bundle_of_8_bits_run_alone(load: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers take one scale for a batch, so that company would change what a canary is answered."""
    module = load("fused")
    manifest = {**module.integrity.check(module.BUNDLE), "int8": {"scores": 0.1}}
    step, (requests, wanted) = module.make_step("fused", manifest, 1), tensors_of(bundle)
    batches = batches_of(step.run, monkeypatch)
    assert_answers(step.answer(requests), wanted)
    assert [b["lengths"] for b in batches] == [(1,)] * len(requests)


def test_a_request_that_breaks_the_graph_fails_alone(load: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`embed` takes any ids from whoever may ask it; those that are none must not cost the others their answers."""
    wanted = [step_of(load("transform"), "transform").answer([r])[0] for r in tensors_of(bundle)[0][:3]]
    module = load("embed")
    model = module.TritonPythonModel()
    model.step, model.inputs = step_of(module, "embed"), list(wanted[0])
    wrong = {**wanted[1], "inputs.item_id": np.full_like(wanted[1]["inputs.item_id"], 10**9)}
    logged: list[str] = []
    stand_in: Any = module.pb_utils
    stand_in.Logger = types.SimpleNamespace(log_error=logged.append)
    stand_in.TritonError, stand_in.InferenceResponse = Refusal, lambda error: error.text
    monkeypatch.setattr(model, "_read", lambda request: request)
    monkeypatch.setattr(model, "_response", lambda answer: answer["vectors"].shape)
    found = model.execute([wanted[0], wrong, wanted[2]])
    assert found[1] == "the model failed; the server's log says why" and len(logged) == 1
    assert [found[n][:2] for n in (0, 2)] == [wanted[n]["inputs.item_id"].shape for n in (0, 2)]


def test_each_request_gets_as_many_items_as_it_asked_for(load: Any, bundle: Path) -> None:
    requests, _ = tensors_of(bundle)
    for k, request in zip((1, 4, 10_000), requests, strict=False):
        request["k"] = np.full((1, 1), k, np.int32)
    found = step_of(load("fused"), "fused").answer(requests[:3])
    items = len(Bundle.open(bundle).transform.names)
    assert [answer["items"].shape for answer in found] == [(1, 1), (1, 4), (1, items)]
    listed = np.isfinite(found[2]["scores"])  # reserved ids are no items
    assert 0 < listed.sum() < items and ((found[2]["items"] != b"") == listed).all()


def test_warm_up_files_have_the_size_of_their_tensors(repository: Path) -> None:
    pattern = r'data_type: (\w+) dims: \[ ([\d, ]+) \] input_data_file: "([^"]+)"'
    for step in STEPS:
        entries = re.findall(pattern, (repository / step / "config.pbtxt").read_text())
        assert len(entries) >= 5 * (1 if step == "decode" else 3)
        for kind, dims, file in entries:
            size = (repository / step / "warmup" / file).stat().st_size
            values = prod(map(int, dims.split(",")))
            assert size >= 4 * values if kind == "TYPE_STRING" else size == SIZES[kind] * values


def test_settings_reach_the_configurations(bundle: Path, tmp_path: Path) -> None:
    out = export_triton(bundle, tmp_path / "m", Settings(version=7, instances=3, threads=2, most=16, delay=250))
    for step in STEPS:
        text = (out / step / "config.pbtxt").read_text()
        assert (out / step / "7" / "model.py").is_file()
        assert "max_batch_size: 16" in text and "count: 3" in text
        joined = step not in ("transform", "decode")  # where several requests take less time than one after another
        assert ("delay_microseconds: 250" in text) == ("dynamic_batching" in text) == joined
        assert 'key: "threads" value { string_value: "2" }' in text
    assert "max_batch_size: 16" in (out / "ensemble" / "config.pbtxt").read_text()
    with pytest.raises(ConfigError, match=r"instances \(0\) must be at least 1"):
        Settings(instances=0)


@pytest.mark.parametrize("name", ["rank/3/bundle/weights.data", "fused/3/model.py", "decode/3/bundle/transform.json"])
def test_a_changed_byte_is_found(name: str, repository: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(integrity.BundleError, match="was changed after the export"):
        integrity.check(copy)
    part = (copy / name).parent
    if part.name == "bundle":
        with pytest.raises(integrity.BundleError, match="was changed after the export"):
            integrity.check(part)


def test_model_refuses_numpy_2(load: Any) -> None:
    assert np.__version__.startswith("2.")
    with pytest.raises(RuntimeError, match=r"it needs numpy 1\.26"):
        load("embed").TritonPythonModel().initialize({"model_config": "{}"})


def test_model_checks_its_bundle_when_it_is_loaded(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("decode")
    monkeypatch.setattr(module.np, "__version__", "1.26.4")
    values = {"step": "decode", "threads": "1"}
    config = {"parameters": {key: {"string_value": value} for key, value in values.items()}, "input": [], "output": []}
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config)})
    monkeypatch.setattr(module, "BUNDLE", module.BUNDLE / "vocabularies")
    with pytest.raises(ValueError, match="so it is no bundle"):
        model.initialize({"model_config": json.dumps(config)})


@pytest.mark.parametrize("step", ["embed", "fused"])
def test_model_computes_on_as_many_threads_as_configured(step: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(step)
    monkeypatch.setattr(module.np, "__version__", "1.26.4")
    parameters = {"step": {"string_value": step}, "threads": {"string_value": "2"}}
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps({"parameters": parameters, "input": [], "output": []})})
    run = model.step.run if step == "fused" else model.step
    assert run.graph.session.get_session_options().intra_op_num_threads == 2


def test_a_bundle_that_was_changed_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "golden.json").write_text("{}")
    with pytest.raises(InputError, match=r"golden\.json: has 2 bytes"):
        export_triton(copy, tmp_path / "out")
    assert main(["--bundle", str(copy), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_only_a_repository_is_replaced(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_triton(bundle, out)
    with pytest.raises(InputError, match="exists already"):
        export_triton(bundle, out)
    export_triton(bundle, out, overwrite=True)
    (out / integrity.MANIFEST).unlink()
    with pytest.raises(InputError, match="did not write it"):
        export_triton(bundle, out, overwrite=True)


def test_rank_for_the_onnxruntime_backend_needs_nothing_but_the_request(bundle: Path, tmp_path: Path) -> None:
    """Its file with the tables inside gives what the bundle's own graph gives, from a folder of its own."""
    out = export_triton(bundle, tmp_path / "out", Settings(threads=3, rank_backend="onnxruntime"))
    integrity.check(out)
    folder = Path(shutil.copytree(out / "rank" / "1", tmp_path / "alone"))
    assert not list(folder.rglob("model.py"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    ours = Bundle.open(bundle, path="ensemble")
    requests, _, k = read_golden(bundle)
    batch = ours.transform.collate([ours.transform.encode(r["columns"]) for r in requests], k)
    batch |= ours.graphs[0].run(batch)
    found = session.run(None, {i.name: batch[i.name] for i in session.get_inputs()})
    wanted = ours.graphs[1].run(batch)
    for output, values in zip(session.get_outputs(), found, strict=True):
        assert np.array_equal(values, wanted[output.name])
    text = (out / "rank" / "config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in text and "ragged" not in text
    assert 'key: "intra_op_thread_count" value { string_value: "3" }' in text
    assert '"lengths" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] }' in text
    with pytest.raises(ConfigError, match="rank backend 'onnx' is unknown; known: python, onnxruntime"):
        Settings(rank_backend="onnx")
