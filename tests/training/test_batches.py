from itertools import islice

import numpy as np
import pytest

from recsys.config import TrainingConfig
from recsys.data.dataset import SequenceDataset
from recsys.training.batches import BatchStream, Plan, RankBatches, plan_run
from tests.training.conftest import item_table, schema, sequences


@pytest.fixture(scope="module")
def data():
    return SequenceDataset.from_frame(sequences(50, np.random.default_rng(0)), schema(), item_table())


def stream_of(data, seed=0, **settings):
    return BatchStream(data, 5, TrainingConfig(batch_size=4, **settings), seed)


def as_lists(windows):
    return [(w.row.tolist(), w.start.tolist(), w.stop.tolist()) for w in windows]


def all_batches(stream, epochs):
    return [w for number in range(epochs) for w in stream.epoch(number)]


def test_an_epoch_depends_on_seed_and_number_alone(data):
    assert as_lists(stream_of(data).epoch(3)) == as_lists(stream_of(data).epoch(3))
    assert as_lists(stream_of(data).epoch(3)) != as_lists(stream_of(data).epoch(2))
    assert as_lists(stream_of(data).epoch(3)) != as_lists(stream_of(data, seed=1).epoch(3))


def test_every_event_but_a_sequences_first_is_a_label_once_an_epoch(data):
    batches = stream_of(data).epoch(1)
    labels = np.concatenate([np.arange(a + 1, b) for w in batches for a, b in zip(w.start, w.stop, strict=True)])
    expected = set(range(data.offsets[-1])) - set(data.offsets[:-1].tolist())
    assert sorted(labels.tolist()) == sorted(expected)


@pytest.mark.parametrize("start", [0, 1, 57, 200])
def test_the_stream_can_be_entered_anywhere(data, start):
    stream = stream_of(data, batch_events=20)
    expected = as_lists(all_batches(stream, 9))[start : start + 30]
    assert len(expected) == 30
    assert as_lists(islice(stream.from_batch(start), 30)) == expected


@pytest.mark.parametrize(("start", "step"), [(0, 1), (2, 3), (57, 4), (200, 100)])
@pytest.mark.parametrize("batch_events", [None, 20])
def test_every_so_manieth_batch_can_be_taken(data, start, step, batch_events):
    stream = stream_of(data, batch_events=batch_events)
    everything = as_lists(all_batches(stream, 20))
    expected = everything[start::step][:12]
    assert as_lists(islice(stream.from_batch(start, step), len(expected))) == expected


def test_every_batch_of_the_stream_draws_for_itself(data):
    stream = stream_of(data)
    draws = [windows.draw for windows in islice(stream.from_batch(0), 60)]
    assert len(set(draws)) == 60
    assert [windows.draw for windows in islice(stream.from_batch(7, 2), 20)] == draws[7:47:2]


@pytest.mark.parametrize("settings", [{}, {"batch_events": 20}, {"windows": "newest"}])
def test_batches_are_counted_without_making_them(data, settings):
    stream = stream_of(data, **settings)
    assert [stream.num_batches(n) for n in range(4)] == [len(list(stream.epoch(n))) for n in range(4)]


def test_batches_of_an_epoch_can_be_sliced(data):
    epoch = stream_of(data).epoch(0)
    assert as_lists(epoch[5:9]) == as_lists(list(epoch)[5:9]) and as_lists([epoch[-1]]) == as_lists(list(epoch)[-1:])


def test_ranks_share_the_stream_out_between_them(data):
    stream = stream_of(data)
    shares = [as_lists(RankBatches(stream, 40, rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [40, 40, 40]
    together = [shares[i % 3][i // 3] for i in range(120)]
    assert together == as_lists(all_batches(stream, 10))[:120]


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_a_run_takes_every_batch_of_its_epochs(data, ranks, accumulation):
    stream = stream_of(data, epochs=3, accumulation=accumulation)
    total = len(all_batches(stream, 3))
    plan = plan_run(stream, stream.config, ranks)
    assert 0 <= plan.steps * ranks * accumulation - total < ranks * accumulation


def test_part_epochs_and_step_limits(data):
    stream = stream_of(data, epochs=1.5)
    sizes = [len(stream.epoch(n)) for n in range(4)]
    plan = plan_run(stream, stream.config, 1)
    assert plan.steps == sizes[0] + round(sizes[1] / 2)
    assert plan.epoch_at(plan.steps) == pytest.approx(1.5, abs=0.5 / sizes[1])
    assert plan.epoch_ends() == [sizes[0], plan.steps]
    limited = stream_of(data, max_steps=sizes[0] + sizes[1] + 2)
    plan = plan_run(limited, limited.config, 1)
    assert plan.steps == sizes[0] + sizes[1] + 2
    assert plan.epoch_ends() == [sizes[0], sizes[0] + sizes[1], plan.steps]
    assert plan.epoch_at(plan.steps) == pytest.approx(2 + 2 / sizes[2])


def test_epochs_that_end_within_a_step_count_from_that_step():
    plan = Plan(steps=6, step_batches=2, ends=[5, 12])
    assert plan.epoch_ends() == [3, 6]
    assert [plan.epoch_at(step) for step in range(7)] == pytest.approx([0, 0.4, 0.8, 8 / 7, 10 / 7, 12 / 7, 2.0])
