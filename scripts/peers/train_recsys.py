"""Our own side of `bench_train.py --peers`: the SASRec backbone on the same data, in a process of its own."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from common import BATCH, DROPOUT, HEADS, LAYERS, LEARNING_RATE, WIDTH, Meter, Sequences, main

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recsys.config import RunConfig
from recsys.data.dataset import SequenceDataset
from recsys.data.names import Names
from recsys.schema import FIRST_ID, Column, Kind, Schema, Tag
from recsys.training.batches import BatchStream
from scripts.bench_train import Case, Way


def case_of(sequences: Sequences, length: int) -> Case:
    """The shape in our configuration: cross entropy over all items, its product in bfloat16."""
    items = sequences.items + FIRST_ID
    schema = Schema(columns=[Column(name="item_id", kind=Kind.CATEGORICAL, tags=[Tag.ITEM_ID], cardinality=items)])
    keys = Names.of(str(row) for row in range(len(sequences.offsets) - 1))
    ids = (sequences.ids + FIRST_ID).astype(np.int32)
    data = SequenceDataset(schema, sequences.offsets, {"item_id": ids}, {}, keys, keys)
    model = {
        "max_length": length,
        "inputs": {
            "embedding_size": WIDTH,
            "fusion": "sum",
            "fusion_size": WIDTH,
            "dropout": DROPOUT,
            "direct": True,  # as the peers: the embedding enters the blocks, and is the output table
        },
        "tied": True,
        "backbone": {
            "name": "sasrec",
            "hidden_size": WIDTH,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "attention_dropout": DROPOUT,
            "residual_dropout": DROPOUT,
        },
        "auxiliary": [],
        "loss": {"name": "cross_entropy", "dtype": "bfloat16"},
    }
    training = {"batch_size": BATCH, "learning_rate": LEARNING_RATE}
    config = RunConfig.model_validate({"model": model, "training": training})
    return Case(f"len{length}", data, pl.DataFrame({"id": range(items)}), config)


def train(sequences: Sequences, length: int, meter: Meter) -> list[str]:
    """What `recsys.training` runs a step."""
    case = case_of(sequences, length)
    stream = BatchStream(case.data, length, case.config.training, seed=0)
    way = Way(case, stream.from_batch(0), naive=False)
    before = 0
    while True:
        way.step()
        done = meter.count(way.labels - before)
        before = way.labels
        if done:
            break
    return [
        "windows cover the whole of a sequence",
        "batches of windows of like length",
        "the output layer on positions with a label, its product in bfloat16",
        "dropout by 16 random bits an element, a rate of 0.199997",
    ]


if __name__ == "__main__":
    main(train)
