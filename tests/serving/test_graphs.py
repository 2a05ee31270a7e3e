"""A hand-made graph whose table comes from a file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from recsys.serving.graphs import Graph, Tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    node = helper.make_node("Gather", ["table.rows", "ids"], ["found"])
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("table.rows", TensorProto.FLOAT, ["items", 2]),
    ]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("found", 1, ["n", 2])])
    (tmp_path / "tables").mkdir()
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "g.onnx")
    np.save(tmp_path / "tables" / "rows.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    return tmp_path


def test_tables_are_bound_and_shared(folder: Path) -> None:
    tables = Tables(folder)
    one, two = Graph(folder, "g", tables), Graph(folder, "g", tables)
    assert one.inputs == ["ids"] and one.outputs == ["found"] and list(one.tables) == ["table.rows"]
    assert one.tables["table.rows"].data_ptr() == two.tables["table.rows"].data_ptr()
    strided = np.array([4, 0, 2, 0])[::2]
    assert one.run({"ids": strided, "unread": np.zeros(1)})["found"].tolist() == [[8.0, 9.0], [4.0, 5.0]]


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_threads_as_asked_for(folder: Path, threads: int) -> None:
    options = Graph(folder, "g", threads=threads).session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


def test_a_missing_input_is_named(folder: Path) -> None:
    with pytest.raises(KeyError, match="ids"):
        Graph(folder, "g").run({})


def test_tables_are_never_unpickled(folder: Path) -> None:
    np.save(folder / "tables" / "rows.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="(?i)object"):
        Graph(folder, "g")


@pytest.mark.parametrize("name", ["../../rows", "/rows", "a/rows", ""])
def test_tables_are_read_from_their_folder_alone(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="names no table"):
        Tables(folder).bind(f"table.{name}")
