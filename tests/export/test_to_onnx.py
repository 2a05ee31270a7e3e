"""What is done to finished ONNX models: one file for all weights, two graphs as one."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper

from recsys.export.to_onnx import ALIGNMENT, WEIGHTS, merged, save_all
from recsys.serving.integrity import external_files

LARGE = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 4096


def product(given: str, result: str, weights: np.ndarray, raw: bool = True) -> ModelProto:
    """``result = given @ weights``, whose weight has the same name in every model."""
    tensor = onnx.numpy_helper.from_array(weights, "w")
    if not raw:
        tensor = helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.flatten())
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 64]) for n in (given, result)]
    node = helper.make_node("MatMul", [given, "w"], [result])
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(path: Path, given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: given})[0]
    return found


def test_weights_are_stored_once_and_the_graphs_still_compute(tmp_path: Path) -> None:
    first, second = product("x", "y", LARGE), product("y", "z", LARGE.T.copy(), raw=False)
    models = {"first": first, "second": second, "both": merged(first, second, "y")}
    save_all(models, tmp_path)
    stored = (tmp_path / WEIGHTS).read_bytes()
    assert len(stored) == 2 * LARGE.nbytes and LARGE.nbytes % ALIGNMENT == 0
    given = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "first.onnx", given), given @ LARGE, rtol=1e-5)
    np.testing.assert_allclose(run(tmp_path / "second.onnx", given), given @ LARGE.T, rtol=1e-5)
    np.testing.assert_allclose(run(tmp_path / "both.onnx", given), given @ LARGE @ LARGE.T, rtol=1e-4)
    assert all(external_files((tmp_path / f"{name}.onnx").read_bytes()) == {WEIGHTS} for name in models)


def test_an_input_that_both_halves_read_is_one_input(tmp_path: Path) -> None:
    second = product("y", "product", LARGE.T.copy())
    second.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 64]))
    second.graph.node.append(helper.make_node("Sub", ["product", "x"], ["z"]))
    second.graph.output[0].name = "z"
    both = merged(product("x", "y", LARGE), second, "y")
    assert [i.name for i in both.graph.input] == ["x"]
    save_all({"both": both}, tmp_path)
    given = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "both.onnx", given), given @ LARGE @ LARGE.T - given, rtol=1e-4)


def test_offsets_are_aligned_and_small_tensors_stay(tmp_path: Path) -> None:
    odd = np.ones((65, 1), dtype=np.float32)
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in (("a", odd), ("b", odd + 1), ("c", odd[:3]))]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value], tensors)
    model = helper.make_model(graph)
    save_all({"m": model}, tmp_path)
    kept = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    assert [t.HasField("raw_data") for t in kept] == [False, False, True]
    offsets = [int(next(e.value for e in t.external_data if e.key == "offset")) for t in kept[:2]]
    assert offsets == [0, 320] and all(o % ALIGNMENT == 0 for o in offsets)
    read = onnx.load(tmp_path / "m.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(read[1]), odd + 1)
