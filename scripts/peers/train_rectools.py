"""RecTools' SASRec as its users train it: `SASRecModel.fit` with the softmax loss."""

from typing import Any

import numpy as np
import pandas as pd
from common import BATCH, DROPOUT, HEADS, LAYERS, LEARNING_RATE, WIDTH, Meter, Sequences, main
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class _Count(Callback):
    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Labels that are not the padding's 0."""
        if self.meter.count(int((batch["y"] != 0).sum())):
            trainer.should_stop = True


def train(sequences: Sequences, length: int, meter: Meter) -> list[str]:
    """The last ``length + 1`` events of each sequence are its one window: RecTools makes no others."""
    events = np.arange(len(sequences.ids))
    table = {Columns.User: sequences.rows, Columns.Item: sequences.ids, Columns.Weight: 1.0}
    data = Dataset.construct(pd.DataFrame({**table, Columns.Datetime: pd.to_datetime(events, unit="s")}))

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=10_000,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_Count(meter)],
        )

    SASRecModel(
        n_blocks=LAYERS,
        n_heads=HEADS,
        n_factors=WIDTH,
        dropout_rate=DROPOUT,
        session_max_len=length,
        batch_size=BATCH,
        lr=LEARNING_RATE,
        loss="softmax",
        get_trainer_func=trainer,
    ).fit(data)
    return [
        "only the last window of a sequence",
        "every batch padded to the longest window",
        "logits of padded positions too, the whole [B, L, V] at once",
    ]


if __name__ == "__main__":
    main(train)
