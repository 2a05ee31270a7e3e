"""Sequence dataset and configuration to a finished run directory."""

import os
import random
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from recsys.build import attach_text, build_masking, build_model, settle, validation_masking
from recsys.config import RunConfig, TrainingConfig
from recsys.data.collate import Collator, Masking
from recsys.data.dataset import SequenceDataset
from recsys.errors import ConfigError, InputError, RunError
from recsys.etl.storage import train_counts
from recsys.recommender import Recommender
from recsys.run_directory import RunDirectory
from recsys.runtime import atomic_file, atomic_folder
from recsys.schema import Schema
from recsys.training import paged
from recsys.training.batches import BatchStream, plan_run
from recsys.training.callbacks import EarlyStop, Pacing, Progress, evaluations_since_best, pace_run
from recsys.training.initial import start_from
from recsys.training.memory import MemoryRecord
from recsys.training.records import build_history, changed_sources, describe_environment
from recsys.training.tracking import trackers, tracking
from recsys.training.trainer import (
    WEIGHTS,
    SequenceTrainer,
    drop_unfinished,
    last_checkpoint,
    load_weights,
    read_state,
    save_weights,
)
from recsys.training.validation import Validator

MARKERS = ("config.yaml", "schema.json", "environment.json")
"""Files of a run directory, without which a folder is never overwritten."""

NEVER = 2**31 - 1
"""Trainer's own intervals, which `Pacing` replaces."""


def train(
    dataset: Path, config: RunConfig, out: Path, *, resume: bool = False, overwrite: bool = False
) -> RunDirectory:
    """Train the configured model on a sequence dataset's `train` split.

    The weights kept are those of the best validation (`training.best_metric`), of the last step where there is no
    validation split. The same dataset, configuration and seed give the same weights on the same machine, also when
    the run is killed and resumed in between. Under `torchrun` every process calls this with the same arguments.

    Args:
        dataset: folder that `recsys preprocess` wrote.
        config: the whole configuration; `model`, `training` and `seed` are used.
        out: the run directory. ``out/checkpoints`` keeps the last checkpoint and the best one; it is needed only to
            resume and may be deleted once the run is finished.
        resume: go on from the last checkpoint (from the start where there is none); a finished run is left as it is.
        overwrite: delete the run that `out` holds first.

    Raises:
        InputError: the dataset lacks something, or `out` exists and neither flag fits.
        RunError: the run to be resumed has another configuration, schema or data.
        TrainingError: the loss is not finite; names step, rows and the last good checkpoint.
    """
    dataset, out = Path(dataset), Path(out)
    config = config.model_copy(update={"model": settle(config.model, complete=True)})
    schema, _ = attach_text(config.model.inputs, Schema.load(dataset / "schema.json"))
    run = RunDirectory(out)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    leader = int(os.environ.get("RANK", "0")) == 0
    done = resume and is_finished(run)
    parts = None if done else load_parts(dataset, config)  # fails, where it does, before anything is written
    if leader:
        _prepare(run, config, schema, dataset, resume, overwrite)
    if parts is not None:
        memory = MemoryRecord(parts.model, config, dataset)
        with tracking(config.training, run, leader):
            trainer = build_trainer(parts, config, run)
            trainer.add_callback(memory)
            _run(trainer, run, config.training)
        if leader:
            memory.write(run)
    return run


def is_finished(run: RunDirectory) -> bool:
    """Whether training ended well; the weights are the last file it writes."""
    return run.weights.is_file() and run.history_file.is_file()


def _prepare(
    run: RunDirectory, config: RunConfig, schema: Schema, dataset: Path, resume: bool, overwrite: bool
) -> None:
    """Check `run` against what was asked for and make its folder."""
    exists = run.path.is_file() or (run.path.is_dir() and any(run.path.iterdir()))
    if exists and not run.config_file.is_file():
        raise InputError(f"{run.path}: exists and is no run directory; choose another --out")
    if exists and resume:
        _require_same(run, config, schema, dataset)
        drop_unfinished(run.checkpoints)
        return
    if exists and not overwrite:
        state = "a finished run" if is_finished(run) else "an unfinished run; pass --resume to go on with it"
        raise InputError(f"{run.path}: holds {state}; choose another --out or pass --overwrite")
    with atomic_folder(run.path, replace=overwrite, markers=MARKERS) as work:
        fresh = RunDirectory(work)
        fresh.create(config, schema, dataset)
        fresh.write_json(fresh.environment_file, describe_environment(config, dataset))


def _require_same(run: RunDirectory, config: RunConfig, schema: Schema, dataset: Path) -> None:
    """Refuse to resume a run that was started from anything else."""
    theirs, ours = run.load_config().model_dump(mode="json"), config.model_dump(mode="json")
    found = _first_difference(theirs, ours)
    if found:
        raise RunError(f"{run.path}: cannot resume: {found}; use the run's own config.yaml or pass --overwrite")
    differences = schema.differences(run.load_schema())
    if differences:
        raise RunError(f"{run.path}: cannot resume on {dataset}: {differences[0]}")
    now = describe_environment(config, dataset)
    if run.data_hash() != now["dataset"]["sha256"]:
        raise RunError(f"{run.path}: cannot resume: the files of {dataset} have changed since it started")
    for name in changed_sources(run.read_json(run.environment_file), now):
        raise RunError(
            f"{run.path}: cannot resume: {now[name]['path']} is not what it was when the run started; put that back"
        )


def _first_difference(theirs: Any, ours: Any, path: str = "") -> str | None:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*theirs, *(k for k in ours if k not in theirs)]:
            found = _first_difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    return None if theirs == ours else f"{path} is {theirs!r} there and {ours!r} now"


@dataclass(frozen=True)
class Parts:
    """What training needs that does not depend on the run directory."""

    data: SequenceDataset
    validation: SequenceDataset | None
    model: Recommender
    masking: Masking


def load_parts(dataset: Path, config: RunConfig) -> Parts:
    """Splits of the dataset and a model with fresh weights (by `config.seed`) or those of `training.init_from`."""
    _be_quiet()
    trackers(config.training)
    _precision(config.training.precision, torch.cuda.is_available())
    paged.require_runnable(config.training.optimizer, torch.cuda.is_available())
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    times = config.model.backbone.needs_times
    data = SequenceDataset.load(dataset, "train", times)
    if not (data.lengths >= 2).any():
        raise InputError(f"{dataset}: split 'train': no sequence has two events, so there is nothing to predict")
    if int(data.items.max()) < data.schema.item().first_id:
        raise InputError(f"{dataset}: split 'train': all items are unknown, so there is nothing to predict; fit on it")
    schema, vectors = attach_text(config.model.inputs, data.schema)
    items = pl.read_parquet(dataset / "workflow" / "items.parquet")
    masking = build_masking(config.model.masking, config.model.masked, data.schema.item(), items)
    torch.manual_seed(_seed_of(config))
    counts = partial(train_counts, dataset / "workflow")
    model = build_model(config.model, schema, items, vectors, start_pretrained=True, counts=counts)
    if config.training.init_from is not None:
        start_from(model, Path(config.training.init_from), dataset)
    return Parts(data, _validation_split(dataset, times), model, masking)


def build_trainer(parts: Parts, config: RunConfig, run: RunDirectory) -> SequenceTrainer:
    """The trainer of a run, whose folder must exist (all ranks wait for it)."""
    seed = _seed_of(config)
    arguments = _arguments(config.training, run, seed)
    if arguments.world_size > 1:
        torch.distributed.barrier()
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are used by torchrun, never by DataParallel
    data, validation, model = parts.data, parts.validation, parts.model
    stream = BatchStream(data, config.model.max_length, config.training, seed)
    plan = plan_run(stream, config.training, arguments.world_size)
    arguments.max_steps = plan.steps
    validator = None
    if validation is not None:
        scored = validation_masking(config.model.masking, parts.masking)
        validator = Validator(validation, config.model.max_length, config.evaluation.batch_size, scored)
    trainer = SequenceTrainer(
        model,
        arguments,
        config=config.training,
        stream=stream,
        collate=Collator(data, list(model.heads), parts.masking),
        plan=plan,
        validator=validator,
    )
    trainer.add_callback(Pacing(plan, pace_run(plan, config.training, validator is not None)))
    trainer.add_callback(Progress(config.training.best_metric))
    if validator is not None and config.training.patience is not None:
        trainer.add_callback(EarlyStop(config.training.best_metric, config.training.patience))
    _seed(seed + arguments.process_index)  # ranks drop out different units
    return trainer


def _run(trainer: SequenceTrainer, run: RunDirectory, config: TrainingConfig) -> None:
    """Train from the last checkpoint or the start, and write what a finished run has."""
    last = last_checkpoint(run.checkpoints)
    if last is not None and trainer.args.process_index == 0:
        print(f"resuming from {last}", file=sys.stderr)
    if trainer.validator is None and trainer.args.process_index == 0:
        print("no validation split: training to the end, without early stopping", file=sys.stderr)
    if last is None or not _stopped_early(last, config, trainer.validator is not None):
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        log, best, step = trainer.state.log_history, trainer.state.best_global_step, trainer.state.global_step
        cost = trainer.cost
    else:
        state = read_state(last)
        log, best, step = state["log_history"], state["best_global_step"], state["global_step"]
        load_weights(trainer.model, last / WEIGHTS)
        cost = [record for record in log if "cpu_seconds" in record][-1]
    if trainer.args.process_index == 0:
        run.write_json(run.history_file, build_history(log, best, cost, step))
        if best is None:
            save_weights(trainer.model, run.weights)
        else:
            with atomic_file(run.weights) as work:
                shutil.copyfile(run.checkpoints / f"checkpoint-{best}" / WEIGHTS, work)
    if trainer.args.world_size > 1:
        torch.distributed.barrier()


def _stopped_early(checkpoint: Path, config: TrainingConfig, validated: bool) -> bool:
    """Whether the run had used up its patience when it was killed."""
    if not validated or config.patience is None:
        return False
    return evaluations_since_best(read_state(checkpoint)["log_history"], config.best_metric) >= config.patience


def _validation_split(dataset: Path, times: bool) -> SequenceDataset | None:
    """The `val` split, None where it is missing or has no sequence of two events."""
    if not list((dataset / "val").glob("*.parquet")):
        return None
    split = SequenceDataset.load(dataset, "val", times)
    return split if (split.lengths >= 2).any() else None


def _arguments(config: TrainingConfig, run: RunDirectory, seed: int) -> TrainingArguments:
    """Trainer's settings. Steps, schedule, optimizer and pace are set by our own parts."""
    on_gpu = torch.cuda.is_available()
    precision = _precision(config.precision, on_gpu)
    return TrainingArguments(
        output_dir=str(run.checkpoints),
        use_cpu=not on_gpu,
        seed=seed,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="steps",
        save_steps=NEVER,
        save_total_limit=2,
        metric_for_best_model=config.best_metric,
        greater_is_better=config.best_metric != "loss",
        report_to=trackers(config),
        run_name=run.path.name,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_backend=("nccl" if on_gpu else "gloo") if "LOCAL_RANK" in os.environ else None,
    )


def _precision(asked: str, on_gpu: bool) -> str:
    """float32, bfloat16 or float16."""
    if asked == "auto":
        if not on_gpu:
            return "float32"
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if asked == "float16" and not on_gpu:
        raise ConfigError("training.precision: float16 needs a GPU; use auto, float32 or bfloat16")
    return asked


def _seed_of(config: RunConfig) -> int:
    """The seed in the range that numpy takes."""
    return config.seed % 2**32


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _be_quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
