"""Sections `training` and `evaluation`."""

from typing import Annotated, Literal

from pydantic import Field

from recsys.config.base import Count, Share, StrictModel


class TrainingConfig(StrictModel):
    """How a model is trained."""

    epochs: Annotated[float, Field(gt=0)] = 10.0
    max_steps: int = -1  # optimizer steps; -1: from epochs
    init_from: str | None = None  # run whose weights training starts from; None: fresh ones
    batch_size: Count = 128  # most sequences in a batch (a device and step)
    batch_events: Count | None = (
        None  # about this many events a batch, so that steps weigh events alike; None: no limit
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"  # others: GPU, bitsandbytes
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    min_learning_rate_ratio: Share = 0.0  # the schedule's end, as a share of learning_rate
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Share = 0.05  # of all steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    accumulation: Count = 1  # batches a step
    windows: Literal["random", "newest"] = "random"  # which max_length events of a longer sequence an epoch sees
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bf16 or fp16 on a GPU, else fp32
    patience: int | None = 10  # evaluations without improvement; None never stops early
    best_metric: Literal["loss", "ndcg@10", "recall@10"] = "ndcg@10"  # on the validation split
    save_steps: Count | None = None  # steps between checkpoints; None: once an epoch
    evaluate_steps: Count | None = None  # steps between evaluations; None: once an epoch
    tensorboard: bool = False
    wandb: bool = False
    threads: Count | None = None  # CPU threads; None: all


class EvaluationConfig(StrictModel):
    """The protocol of published figures (full ranking, ties count against the model)."""

    ks: list[Count] = Field(default_factory=lambda: [1, 3, 5, 10])
    seen: Literal["keep", "remove"] = "keep"  # whether items of the history may be recommended
    bootstrap_samples: int = 1000  # for 95 % intervals; 0: none
    batch_size: Count = 256
