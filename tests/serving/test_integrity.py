"""What is refused of a bundle: any changed byte, files missing or added, links, paths that lead out."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from recsys.serving import integrity
from recsys.serving.integrity import MANIFEST, BundleError, check, external_files, read_manifest, seal, sha256_of


def tensor(name: str, location: str | None) -> TensorProto:
    values = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), name)
    if location is not None:
        values.ClearField("raw_data")
        values.data_location = TensorProto.EXTERNAL
        entry = values.external_data.add()
        entry.key, entry.value = "location", location
    return values


def model(location: str | None, where: str = "initializer") -> bytes:
    """A model whose only tensor stands at one of the places where a tensor can stand."""
    weights, value = tensor("w", location), helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    nodes, initializers, sparse = [helper.make_node("Identity", ["x"], ["y"])], [], []
    constant = helper.make_node("Constant", [], ["c"], value=weights)
    if where == "initializer":
        initializers = [weights]
    elif where == "attribute":
        nodes.append(constant)
    elif where == "sparse":
        sparse = [helper.make_sparse_tensor(weights, tensor("i", None), [4])]
    elif where == "branch":
        branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("c", 1, [2, 2])])
        nodes.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    graph = helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("y", 1, [2])], initializers)
    graph.sparse_initializer.extend(sparse)
    functions = []
    if where == "function":
        functions = [helper.make_function("d", "f", [], ["c"], [constant], [helper.make_opsetid("", 18)])]
    made: bytes = helper.make_model(graph, functions=functions).SerializeToString()
    return made


def make_bundle(folder: Path, **more: bytes | Any) -> Path:
    folder.mkdir()
    (folder / "tables").mkdir()
    contents = {"rank.onnx": model("weights.data"), "weights.data": b"\0" * 64, "tables/a.npy": b"a table", **more}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    write_manifest(folder, {name: facts(folder / name) for name in contents})
    return folder


def facts(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def write_manifest(folder: Path, files: dict[str, Any], **more: Any) -> None:
    values = {"format": "recsys-bundle", "version": 2, "note": "für alle", "files": files, **more}
    (folder / MANIFEST).write_text(seal(values), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as raised:
        check(folder)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_a_bundle_as_it_was_written_holds(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    assert set(check(folder)["files"]) == {"rank.onnx", "weights.data", "tables/a.npy"}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_any_file_is_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_bundle(tmp_path_factory.mktemp("changed") / "b")
    name = data.draw(st.sampled_from([MANIFEST, "rank.onnx", "weights.data", "tables/a.npy"]))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


def test_missing_added_cut_and_linked_files(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "tables" / "more.npy").write_bytes(b"")
    assert refusal(folder) == (
        f"{folder / 'tables/more.npy'}: is not part of the bundle; take it out, or export the run again"
    )
    (folder / "tables" / "more.npy").unlink()
    (folder / "weights.data").write_bytes(b"\0" * 63)
    assert "weights.data: has 63 bytes, the manifest says 64" in refusal(folder)
    (folder / "weights.data").unlink()
    assert "weights.data: is missing; copy the whole bundle" in refusal(folder)
    outside = tmp_path / "outside"
    outside.write_bytes(b"\0" * 64)
    os.symlink(outside, folder / "weights.data")
    assert "weights.data: is a link or no plain file" in refusal(folder)
    (folder / "weights.data").unlink()
    (folder / "weights.data").write_bytes(b"\0" * 64)
    os.symlink(tmp_path, folder / "elsewhere")
    assert "elsewhere: is not part of the bundle" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../outside", "C:\\x", "a\\..\\b", ".", "", "a//b"]
)
def test_paths_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (tmp_path / "outside").write_bytes(b"x")
    write_manifest(folder, {**read_manifest(folder)["files"], name: facts(tmp_path / "outside")})
    assert refusal(folder).endswith(f"names {name!r}, which leads out of the bundle; do not use it")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "tables/../../outside"])
@pytest.mark.parametrize("part", ["file", "input", "vocabulary"])
def test_texts_that_name_files_outside_are_refused(part: str, name: str, tmp_path: Path) -> None:
    vocabulary = {"item_id": name if part == "vocabulary" else "weights.data"}
    folder = make_bundle(tmp_path / "b", **{"transform.json": json.dumps({"vocabularies": vocabulary}).encode()})
    table = f"table.{name}" if part == "input" else "table.a"
    graphs = {"rank": {"file": name if part == "file" else "rank.onnx", "inputs": {table: {}, "ids": {}}}}
    write_manifest(folder, read_manifest(folder)["files"], graphs=graphs)
    assert refusal(folder).endswith(f"names {name!r}, which leads out of the bundle; do not use it")


@pytest.mark.parametrize("graphs", [[], {"rank": {"file": "rank.onnx"}}, {"rank": "rank.onnx"}])
def test_graphs_that_are_described_wrongly_are_refused(graphs: Any, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    write_manifest(folder, read_manifest(folder)["files"], graphs=graphs)
    assert "describes its graphs or vocabularies wrongly" in refusal(folder)


@pytest.mark.parametrize("where", ["initializer", "attribute", "sparse", "branch", "function"])
@pytest.mark.parametrize("location", ["../outside", "/etc/hostname", "tables/../../outside", "not_listed", ""])
def test_weights_from_outside_are_refused(where: str, location: str, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    assert external_files(model("weights.data", where)) == {"weights.data"}
    (folder / "rank.onnx").write_bytes(model(location, where))
    write_manifest(folder, {n: facts(folder / n) for n in read_manifest(folder)["files"]})
    assert f"rank.onnx: reads weights from {location!r}, outside of the bundle; do not use it" in refusal(folder)


def test_no_model_and_no_manifest(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", **{"rank.onnx": b"no model at all"})
    assert "rank.onnx: is no ONNX model" in refusal(folder)
    (folder / "rank.onnx").write_bytes(model("weights.data")[:-5])
    write_manifest(folder, {n: facts(folder / n) for n in read_manifest(folder)["files"]})
    assert "rank.onnx: is no ONNX model (cut off?)" in refusal(folder)
    (folder / MANIFEST).unlink()
    assert refusal(folder) == f"{folder}: no manifest.json in it, so it is no bundle; `recsys export` makes one"
    assert "no such folder" in refusal(tmp_path / "nowhere")
    for text in ("[" * 100_000, "{}", "[1]", '{"format": "recsys-bundle", "version": NaN}', "\ud800"):
        (folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
        assert "export the run again" in refusal(folder)
    (folder / MANIFEST).write_text(seal({"format": "recsys-bundle", "version": 1, "files": {}}))
    assert refusal(folder) == f"{folder / MANIFEST}: version 1; this program reads 2; export the run again"
    (folder / MANIFEST).write_text(seal({"format": "recsys-bundle", "version": 2, "files": {"rank.onnx": 3}}))
    (folder / "weights.data").unlink()
    (folder / "tables" / "a.npy").unlink()
    assert "rank.onnx: has" in refusal(folder)


def test_a_huge_manifest_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path / "b")
    monkeypatch.setattr(integrity, "MOST_MANIFEST", 100)
    assert "which no manifest has" in refusal(folder)


def test_sealing_twice_changes_nothing() -> None:
    text = seal({"b": 1, "a": [1.5, None, "é"]})
    assert seal(json.loads(text)) == text and text.endswith("}\n")
