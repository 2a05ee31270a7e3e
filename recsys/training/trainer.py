"""`transformers.Trainer` with our batches, a token-normalised loss and our validation."""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from recsys.config import TrainingConfig
from recsys.data.batch import Batch
from recsys.data.collate import Collator, WindowDataset
from recsys.errors import RunError, TrainingError
from recsys.recommender import BASE, Recommender, base_of, own_state, read_weights, require_base
from recsys.runtime import atomic_file
from recsys.training.batches import BatchStream, Plan, RankBatches
from recsys.training.optim import build_optimizer, rate_factor
from recsys.training.validation import Validator

WEIGHTS = "model.safetensors"
STATE = "trainer_state.json"
LOWER_RATE = "lower training.learning_rate"


class SequenceTrainer(Trainer):
    """Trains a `Recommender` over a `BatchStream`; everything else (precision, ranks, checkpoints) is Trainer's.

    The run is one epoch to Trainer, so that a step number alone tells which batches come next. Each head's loss is
    divided by its number of labels over all ranks and accumulated batches of a step, so how a step's batches are
    distributed changes nothing.

    Args:
        model: the model.
        arguments: Trainer's own settings.
        config: the `training` section.
        stream: batches.
        collate: windows to batches.
        plan: how many steps there are.
        validator: measures the model during training; None without a validation split.
    """

    # Trainer sets these without types.
    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        model: Recommender,
        arguments: TrainingArguments,
        *,
        config: TrainingConfig,
        stream: BatchStream,
        collate: Collator,
        plan: Plan,
        validator: Validator | None,
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=WindowDataset(len(stream.dataset)))
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True
        self.config = config
        self.stream = stream
        self.collate = collate
        self.plan = plan
        self.validator = validator
        self.cost = {"label_positions": 0.0, "seconds": 0.0, "cpu_seconds": 0.0}
        self._clock = (0.0, 0.0)
        self._rows: list[int] = []
        self._item_sums: list[Tensor] = []
        self._item_count = 0.0

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Exactly this rank's batches; accelerate must not shard them again, so they are not given to it."""
        sampler = RankBatches(
            self.stream, self.plan.steps * self.config.accumulation, self.args.process_index, self.args.world_size
        )
        return DataLoader(
            self.train_dataset,
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=self.collate,  # type: ignore[arg-type]
            pin_memory=self.args.device.type == "cuda",
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW by the configuration."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model if model is None else model, self.config)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Warm-up and decay by the configuration."""
        if self.lr_scheduler is None:
            factor = rate_factor(self.config, num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """A step's batches and the label counts of each head over all of its batches on all ranks."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        self._rows = [row for batch in batches for row in batch.row_id.tolist()]
        found = [self.model.label_counts(batch) for batch in batches]
        heads = list(found[0])
        counts = [sum(batch[head] for batch in found) for head in heads]
        if self.args.world_size > 1:
            total = torch.tensor(counts, dtype=torch.float64, device=device)
            torch.distributed.all_reduce(total)
            counts = total.tolist()
        self.cost["label_positions"] += counts[heads.index(self.model.item)]
        self._item_count += counts[heads.index(self.model.count_name(self.model.item))]
        return batches, dict(zip(heads, counts, strict=True))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The batch's share of the step's loss; times the ranks, since their gradients are averaged."""
        try:
            output = model(inputs, num_items_in_batch)
        except TrainingError as error:
            raise self._stop(str(error)) from error
        self._item_sums.append(output.sums[self.model.item])
        loss = output.loss * self.args.world_size
        return (loss, output) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer's own; a gradient that is not finite would spoil the weights that the next checkpoint keeps.

        Under float16 the gradient scaler leaves such a step out, as it must while it finds its scale.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.accelerator.scaler is None and norm is not None and not math.isfinite(norm):
            raise self._stop(f"gradient norm is {float(norm)} on dataset rows {self._rows[:20]}; {LOWER_RATE}")
        return norm

    def _stop(self, why: str) -> TrainingError:
        """The error that ends training, with the step and what is left to resume from."""
        last = last_checkpoint(Path(self.args.output_dir))
        kept = f"last good checkpoint: {last}" if last else "no checkpoint yet"
        return TrainingError(f"step {self.state.global_step + 1}: {why} ({kept})")

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Figures on the validation split, logged as ``eval_*``."""
        assert self.validator is not None
        self._stop_clock()
        begin = time.process_time()
        figures = self.validator(self.model, self.args.process_index, self.args.world_size)
        figures["cpu_seconds"] = time.process_time() - begin
        metrics = {f"eval_{name}": value for name, value in figures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._start_clock()
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the item head's own loss and the cost so far to training records."""
        if "loss" in logs:
            logs["item_loss"] = self._mean_item_loss()
            logs.update(self.model.backbone.pop_log())
            self._stop_clock()
            self._start_clock()
            logs.update(self.cost)
        self.state.epoch = self.plan.epoch_at(self.state.global_step)
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: Any = None, **options: Any) -> Any:
        """Trainer's own, with the clock running on from what the checkpoint had cost."""
        if resume_from_checkpoint is not None:
            log = read_state(Path(resume_from_checkpoint))["log_history"]
            spent = [record for record in log if "cpu_seconds" in record]
            self.cost = {name: float(spent[-1][name]) for name in self.cost} if spent else self.cost
        self._start_clock()
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        self._stop_clock()
        return result

    def _mean_item_loss(self) -> float:
        total = torch.stack(self._item_sums).double().sum() if self._item_sums else torch.zeros(())
        if self.args.world_size > 1:
            torch.distributed.all_reduce(total)
        mean = float(total) / (self._item_count or 1.0)
        self._item_sums, self._item_count = [], 0.0
        return mean

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Trainer's own; a new best is always saved."""
        new: bool = super()._determine_best_metric(metrics, trial)
        self.control.should_save = self.control.should_save or new
        return new

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._stop_clock()
        super()._save_checkpoint(model, trial)
        self._start_clock()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Weights only; Trainer would pickle its arguments beside them."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(self.model, folder / WEIGHTS)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.world_size > 1:  # the state file, which comes next, says that the checkpoint is complete
            torch.distributed.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(model or self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def _start_clock(self) -> None:
        self._clock = (time.perf_counter(), time.process_time())

    def _stop_clock(self) -> None:
        """Count the time since the clock was started; validation and saving are left out."""
        wall, cpu = self._clock
        self.cost["seconds"] += time.perf_counter() - wall
        self.cost["cpu_seconds"] += time.process_time() - cpu


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's own tensors as safetensors, by rename, with the hash of the weights that they adapt."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in own_state(model).items()}
    base = base_of(model)
    with atomic_file(path) as work:
        save_file(tensors, work, metadata={"format": "pt"} if base is None else {"format": "pt", BASE: base})


def load_weights(model: nn.Module, path: Path) -> None:
    """Read tensors written by `save_weights` into a model; they must fit it exactly."""
    try:
        tensors, base = read_weights(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: not readable as weights: {' '.join(str(error).split())}") from error
    require_base(model, base, path)
    own = own_state(model)
    for name in [*own, *tensors]:
        if name not in own or name not in tensors:
            raise RunError(f"{path}: belongs to another model: tensor '{name}' is in only one of the two")
        if own[name].shape != tensors[name].shape:
            theirs, ours = list(tensors[name].shape), list(own[name].shape)
            raise RunError(f"{path}: belongs to another schema or model: '{name}' is {theirs}, the run needs {ours}")
    model.load_state_dict(tensors, strict=base is None)


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first; the unfinished ones too."""
    return sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))


def read_state(checkpoint: Path) -> Any:
    """Trainer's state of a checkpoint (steps, best step, log)."""
    return json.loads((checkpoint / STATE).read_text())


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    complete = [checkpoint for checkpoint in checkpoints_in(folder) if _is_complete(checkpoint)]
    return complete[-1] if complete else None


def drop_unfinished(folder: Path) -> None:
    """Remove checkpoints that a killed run left half-written."""
    for checkpoint in checkpoints_in(folder):
        if not _is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def _is_complete(checkpoint: Path) -> bool:
    """Whether the state file, which is written last, is whole."""
    try:
        read_state(checkpoint)
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True
