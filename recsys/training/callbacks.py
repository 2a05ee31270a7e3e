"""When to log, evaluate, save and stop; and the progress bar."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from recsys.config import TrainingConfig
from recsys.training.batches import Plan

LOGS_AN_EPOCH = 10


@dataclass(frozen=True)
class Pace:
    """The steps after which something is due."""

    log: Collection[int]
    evaluate: Collection[int]
    save: Collection[int]


def pace_run(plan: Plan, config: TrainingConfig, validate: bool) -> Pace:
    """Once an epoch unless the configuration gives steps; the last step always. Saves and evaluations log too."""
    ends = plan.epoch_ends()
    last = {plan.steps}
    every = config.evaluate_steps
    evaluate = set(range(every, plan.steps, every)) | last if every else set(ends)
    save = set(range(config.save_steps, plan.steps, config.save_steps)) | last if config.save_steps else set(ends)
    usual = max(1, plan.steps // max(1, LOGS_AN_EPOCH * len(ends)))
    evaluate = evaluate if validate else set()
    return Pace(set(range(usual, plan.steps, usual)) | evaluate | save | last, evaluate, save)


class Pacing(TrainerCallback):
    """Sets the trainer's flags by a `Pace`, and its epoch to the true one."""

    def __init__(self, plan: Plan, pace: Pace) -> None:
        self.plan = plan
        self.pace = pace

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Raise the flags that are due after this step."""
        state.epoch = self.plan.epoch_at(state.global_step)
        control.should_log = state.global_step in self.pace.log
        control.should_evaluate = state.global_step in self.pace.evaluate
        control.should_save = state.global_step in self.pace.save
        return control


def evaluations_since_best(log: list[dict[str, Any]], metric: str) -> int:
    """How many evaluations in a row, up to the last one, have not been better than the best before them."""
    values = [record[f"eval_{metric}"] for record in log if f"eval_{metric}" in record]
    if not values:
        return 0
    best = min(values) if metric == "loss" else max(values)
    return len(values) - 1 - values.index(best)


class EarlyStop(TrainerCallback):
    """Stops after `patience` evaluations without improvement; derived from the log, so that it survives a restart."""

    def __init__(self, metric: str, patience: int) -> None:
        self.metric = metric
        self.patience = patience

    def exhausted(self, state: TrainerState) -> bool:
        """Whether training should have stopped by now."""
        return evaluations_since_best(state.log_history, self.metric) >= self.patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Ask for the stop."""
        control.should_training_stop = control.should_training_stop or self.exhausted(state)
        return control


class Progress(TrainerCallback):
    """A bar over steps on standard error, with the loss and the last validation figure."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.bar: tqdm[Any] | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar at the step that training starts from."""
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step", delay=2.0, file=sys.stderr
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move on."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the figures."""
        if self.bar is None or logs is None:
            return
        self.shown["epoch"] = f"{state.epoch or 0.0:.1f}"
        if "loss" in logs:
            self.shown["loss"] = f"{logs['loss']:.4f}"
        if f"eval_{self.metric}" in logs:
            self.shown[self.metric] = f"{logs[f'eval_{self.metric}']:.4f}"
        self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
