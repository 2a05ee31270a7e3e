"""The three graphs of a recommender, `embed`, `rank` and `fused`, with their item tables, as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor

from recsys.export.graphs import (
    BIAS,
    OUTPUT,
    STREAMS,
    EmbedGraph,
    EventColumn,
    RankGraph,
    exportable,
    hidden_size,
    item_tables,
)
from recsys.export.gru import translations
from recsys.export.to_onnx import Input, Output, Signature, merged, quantised, save_all, to_onnx
from recsys.recommender import Recommender
from recsys.serving.graphs import TABLE
from recsys.serving.transform import EVENT_INPUT, EXCLUDED, LENGTHS, TIMES, K

ROWS, STEPS = 2, 3  # of the example: above 1, or the exporter takes the sizes for fixed
_NAMES = {TensorProto.FLOAT: "float32", TensorProto.INT64: "int64"}


def write_graphs(
    model: Recommender, columns: Sequence[EventColumn], folder: Path, *, int8: bool = False
) -> dict[str, Any]:
    """Write ``embed.onnx``, ``rank.onnx``, ``fused.onnx``, ``weights.data`` and ``tables/``; changes `model`.

    Returns:
        by graph: its file, and the type and shape of each input and output.
    """
    model = exportable(model)
    tables = item_tables(model)
    (folder / "tables").mkdir()
    for name, values in tables.items():
        np.save(folder / "tables" / f"{name}.npy", values.numpy(), allow_pickle=False)
    embed = to_onnx(EmbedGraph(model.inputs, list(columns)), embed_signature(columns, tables), {})
    rank = to_onnx(RankGraph(model), rank_signature(model, tables), translations(hidden_size(model)))
    if int8:
        embed, rank = quantised(embed), quantised(rank)
    models = {"embed": embed, "rank": rank, "fused": merged(embed, rank, "vectors")}
    described = {name: {"file": f"{name}.onnx", **_described(m)} for name, m in models.items()}
    save_all(models, folder)
    return described


def embed_signature(columns: Sequence[EventColumn], tables: dict[str, Tensor]) -> Signature:
    """Of `EmbedGraph`."""
    names, shape = ("batch", "time", "values"), (ROWS, STEPS, 2)
    inputs = [
        Input(
            EVENT_INPUT + c.name,
            torch.zeros(shape[: c.dimensions], dtype=torch.int64 if c.is_ids else torch.float32),
            names[: c.dimensions],
        )
        for c in columns
    ]
    inputs.append(Input(TABLE + STREAMS, tables[STREAMS], ("items", None)))
    outputs = [Output("vectors", ("batch", "time", None))]
    return Signature(inputs, outputs, lambda values: ([*values[:-1]], values[-1]))


def rank_signature(model: Recommender, tables: dict[str, Tensor]) -> Signature:
    """Of `RankGraph`."""
    lengths = torch.tensor([STEPS, STEPS - 1])
    inputs = [
        Input("vectors", torch.zeros(ROWS, STEPS, hidden_size(model)), ("batch", "time", None)),
        Input(LENGTHS, lengths, ("batch",)),
        Input(EXCLUDED, torch.zeros(ROWS, 2, dtype=torch.int64), ("batch", "excluded")),
        Input(K, torch.tensor([2, 3]), ("batch",)),
        Input(TABLE + OUTPUT, tables[OUTPUT], (None, "items")),
    ]
    has_bias, has_times = BIAS in tables, bool(getattr(model.backbone, "needs_times", False))
    if has_bias:
        inputs.append(Input(TABLE + BIAS, tables[BIAS], ("items",)))
    if has_times:
        inputs.append(Input(TIMES, torch.zeros(ROWS, STEPS, dtype=torch.int64), ("batch", "time")))
    if model.scores_repeats:
        ids = torch.arange(ROWS * STEPS).view(ROWS, STEPS)
        inputs.append(Input(EVENT_INPUT + model.item, ids, ("batch", "time")))
    given = (True, True, True, True, True, has_bias, has_times, model.scores_repeats)

    def arguments(values: Sequence[Any]) -> tuple[Any, ...]:
        left = iter(values)
        return tuple(next(left) if is_given else None for is_given in given)

    return Signature(inputs, [Output(name, ("batch", "k")) for name in ("ids", "scores", "probabilities")], arguments)


def _described(model: ModelProto) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        found[part] = {
            v.name: {
                "dtype": _NAMES[v.type.tensor_type.elem_type],
                "shape": [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            }
            for v in values
        }
    return found
