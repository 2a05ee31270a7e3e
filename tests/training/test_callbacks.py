import pytest
from transformers import TrainerControl, TrainerState

from recsys.config import TrainingConfig
from recsys.training.batches import Plan
from recsys.training.callbacks import EarlyStop, Pacing, evaluations_since_best, pace_run

PLAN = Plan(steps=100, step_batches=1, ends=[30, 65, 100])


def test_by_default_every_epoch_is_evaluated_and_saved():
    pace = pace_run(PLAN, TrainingConfig(), validate=True)
    assert set(pace.evaluate) == set(pace.save) == {30, 65, 100}
    assert set(pace.log) == set(range(3, 100, 3)) | {30, 65, 100}


def test_intervals_in_steps_replace_epochs():
    pace = pace_run(PLAN, TrainingConfig(save_steps=40, evaluate_steps=25), validate=True)
    assert set(pace.evaluate) == {25, 50, 75, 100} and set(pace.save) == {40, 80, 100}
    assert set(pace.log) >= {25, 40, 50, 75, 80, 100}


def test_without_validation_nothing_is_evaluated():
    assert not pace_run(PLAN, TrainingConfig(evaluate_steps=10), validate=False).evaluate


def test_flags_and_epoch_are_set_after_each_step():
    pacing = Pacing(PLAN, pace_run(PLAN, TrainingConfig(save_steps=40), validate=True))
    state, control = TrainerState(), TrainerControl()
    for step in range(1, 101):
        state.global_step = step
        pacing.on_step_end(None, state, control)
        assert control.should_evaluate == (step in (30, 65, 100))
        assert control.should_save == (step in (40, 80, 100))
    state.global_step = 65
    pacing.on_step_end(None, state, control)
    assert state.epoch == 2.0


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("ndcg@10", [], 0),
        ("ndcg@10", [0.1, 0.2, 0.3], 0),
        ("ndcg@10", [0.1, 0.3, 0.2, 0.3], 2),
        ("loss", [3.0, 1.0, 2.0], 1),
        ("loss", [1.0, 2.0, 3.0], 2),
    ],
)
def test_evaluations_without_improvement(metric, values, expected):
    log = [record for v in values for record in ({"loss": v}, {f"eval_{metric}": v})]
    assert evaluations_since_best(log, metric) == expected


def test_patience():
    stop, control = EarlyStop("ndcg@10", 2), TrainerControl()
    state = TrainerState(log_history=[{"eval_ndcg@10": v} for v in (0.2, 0.1)])
    assert not stop.on_evaluate(None, state, control).should_training_stop
    state.log_history.append({"eval_ndcg@10": 0.2})
    assert stop.on_evaluate(None, state, control).should_training_stop
