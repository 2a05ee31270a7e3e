"""What memory a run takes: measured on its first step and over the whole run, beside what was planned."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from peft_ext.activations import Saved, count_saved, on_meta
from peft_ext.memory import (
    Memory,
    adapter_numbers,
    count_parameters,
    measured_gradients,
    measured_optimizer,
    measured_weights,
)
from recsys.config import RunConfig
from recsys.errors import ConfigError
from recsys.recommender import Recommender
from recsys.run_directory import RunDirectory
from recsys.runtime import note, peak_memory_gb, resident_memory_gb
from recsys.training.memory_plan import Planned, Planner, Sample, plan_step, sample_of


class MemoryRecord(TrainerCallback):
    """Measures a run's memory, without a change to what it computes.

    Weights, gradients and optimizer are the tensors that are there at the first step; activations are what autograd
    saves in the first forward pass; the peak is the card's over the whole run, or the process's resident memory.

    Args:
        model: before any step.
        config: of the run.
        dataset: that it trains on.
    """

    def __init__(self, model: Recommender, config: RunConfig, dataset: Path) -> None:
        self.model = model
        self.config = config
        self.dataset = dataset
        self.measured: dict[str, int] = {}
        self.sample: Sample | None = None
        quantised = config.model.peft.quantization != "none"
        self._copy = None if quantised else on_meta(model)  # before Trainer wraps the pass
        self._pass = ExitStack()
        self._saved: Saved | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._enter),
            model.register_forward_hook(self._leave, always_call=True),
        ]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note where memory stands."""
        self.measured["resident_at_start"] = round(resident_memory_gb() * 1e9)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the first step's gradients."""
        if "gradients" not in self.measured:
            self.measured["gradients"] = measured_gradients(self.model)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **_: Any,
    ) -> None:
        """Count weights and optimizer after the first step."""
        if optimizer is not None and "optimizer" not in self.measured:
            self.measured["weights"] = measured_weights(self.model)
            self.measured["optimizer"] = measured_optimizer(optimizer)

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if module.training and isinstance(arguments[0], Mapping):
            self.sample = sample_of(arguments[0], self.model.item)
            self._saved = self._pass.enter_context(count_saved(module))

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        if self._saved is None:
            return
        self.measured["activations"] = self._saved.bytes
        self._pass.close()
        self._saved = None
        for hook in self._hooks:
            hook.remove()

    def write(self, run: RunDirectory) -> None:
        """Write ``memory.json``, if a step was taken."""
        found = self.figures()
        if found is not None:
            run.write_json(run.memory_file, found)

    def figures(self) -> dict[str, Any] | None:
        """What was measured, and what is planned for a batch of the same shape; None where no step was taken."""
        if self.sample is None or "optimizer" not in self.measured:
            return None
        gpu = torch.cuda.is_available()
        # The system's highest figure lags behind by some pages.
        highest = max(round(peak_memory_gb() * 1e9), self.measured["resident_at_start"])
        measured = {**self.measured, "resident_peak": highest, **self._adapters()}
        if gpu:
            measured["peak"] = torch.cuda.max_memory_allocated()
        plan, reason = self._plan(self.sample, gpu)
        return {
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "first_batch": {"sequences": self.sample.sequences, "events": self.sample.events},
            "parameters": count_parameters(self.model),
            "trainable": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "measured": measured,
            "planned": None if plan is None else planned_figures(plan),
            **({"not_planned": reason} if reason else {}),
        }

    def _adapters(self) -> dict[str, int]:
        """How many numbers the adapters hold, and how many their formula says; nothing where there are none."""
        peft = self.config.model.peft
        if not peft.adapts:
            return {}
        body: Any = self.model.backbone.model
        found, formula = adapter_numbers(body, peft.r, peft.method == "dora")
        return {"adapters": found, "adapters_by_formula": formula}

    def _plan(self, sample: Sample, gpu: bool) -> tuple[Memory | None, str]:
        """The plan, or why there is none: a pass that looks at values cannot be planned, and training goes on."""
        try:
            if self._copy is None:
                planned = Planner(self.dataset, self.config).build(self.config)
            else:
                planned = Planned(self._copy, None)  # type: ignore[arg-type]
            return plan_step(planned, sample.shapes, self.config, gpu), ""
        except ConfigError as error:
            note(str(error))
            return None, str(error)


def planned_figures(plan: Memory) -> dict[str, Any]:
    """A plan as memory.json and `--dry-run` have it: bytes of each part."""
    values = asdict(plan)
    by_type = values.pop("weights")
    return {**values, "weights": plan.all_weights, "weights_by_type": by_type, "total": plan.total}
