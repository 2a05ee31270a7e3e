"""RePlay's SasRec as its users train it: `SasRec.from_params` (loss CE) in its Lightning and Parquet modules."""

from typing import Any

import lightning
import polars as pl
from common import BATCH, DROPOUT, HEADS, LAYERS, LEARNING_RATE, WIDTH, Meter, Sequences, main
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.sequential import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms


class _Count(lightning.Callback):
    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Targets that the mask keeps."""
        if self.meter.count(int(batch["target_padding_mask"].sum())):
            trainer.should_stop = True


def train(sequences: Sequences, length: int, meter: Meter) -> list[str]:
    """The last ``length + 1`` events of each sequence are its one window: RePlay's Parquet module makes no others."""
    rows = pl.DataFrame({"user_id": sequences.rows, "item_id": sequences.ids.astype("int64")})
    lists = rows.group_by("user_id", maintain_order=True).agg("item_id")
    lists.write_parquet("replay.parquet")
    item = TensorFeatureInfo(
        "item_id",
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=WIDTH,
        padding_value=sequences.items,
        cardinality=sequences.items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    )
    schema = TensorSchema([item])
    data = ParquetModule(
        batch_size=BATCH,
        metadata={"train": {"item_id": {"shape": length + 1, "padding": sequences.items}}},
        transforms={"train": make_default_sasrec_transforms(schema)["train"]},
        train_path="replay.parquet",
    )
    model = SasRec.from_params(
        schema,
        embedding_dim=WIDTH,
        num_heads=HEADS,
        num_blocks=LAYERS,
        max_sequence_length=length,
        dropout=DROPOUT,
    )
    trainer = lightning.Trainer(
        max_epochs=10_000,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[_Count(meter)],
    )
    trainer.fit(LightningModule(model, OptimizerFactory(learning_rate=LEARNING_RATE)), datamodule=data)
    return [
        "only the last window of a sequence",
        "every batch padded to the longest window",
        "logits of padded positions too, the whole [B, L, V] at once",
    ]


if __name__ == "__main__":
    main(train)
