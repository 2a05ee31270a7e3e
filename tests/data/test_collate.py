"""Batches against a loop over the windows' events."""

import numpy as np
import pytest
import torch

from recsys.data.collate import Collator, WindowDataset, iterate
from recsys.data.dataset import Windows
from recsys.data.windows import evaluation_windows
from recsys.nn.masking import causal, causal_last, final_value, mlm, permutation, replaced, span
from tests.data.sequences import make_dataset

HEADS = ("item_id", "classification", "cat", "timestamp_interval")


def test_labels_are_the_next_event_of_every_head():
    data = make_dataset([4, 6])
    windows = Windows(np.array([0, 1]), np.array([0, 5]), np.array([4, 10]))
    batch = Collator(data, HEADS, causal)(windows)
    assert batch.lengths.tolist() == [3, 4]
    assert batch.row_id.tolist() == [0, 1]
    assert batch.inputs["item_id"].shape == (2, 4)
    assert batch.inputs["item_id"].dtype == torch.int64
    assert batch.inputs["timestamp_interval"].dtype == torch.float32
    expected = [(0 * 4 + t, 0 + t + 1) for t in range(3)] + [(1 * 4 + t, 5 + t + 1) for t in range(4)]
    for head in HEADS:
        positions, targets = batch.labels(head)
        assert positions.tolist() == [position for position, _ in expected]
        if head == "classification":
            want = data.item_columns[head][data.items[[event for _, event in expected]]]
        else:
            want = data.columns[head][[event for _, event in expected]]
        assert targets.tolist() == want.tolist()


def test_the_label_of_the_last_position_is_no_input():
    data = make_dataset([5])
    windows = Windows(np.array([0]), np.array([0]), np.array([5]))
    batch = Collator(data, ["item_id"], causal_last)(windows)
    assert batch.inputs["item_id"].tolist() == [data.items[:4].tolist()]
    positions, targets = batch.labels("item_id")
    assert positions.tolist() == [3]
    assert targets.tolist() == [int(data.items[4])]


def test_reserved_ids_are_no_training_targets_but_stay_in_evaluation():
    data = make_dataset([4])
    data.columns["item_id"] = np.where(np.arange(4) == 1, 2, data.items)
    windows = Windows(np.array([0]), np.array([0]), np.array([4]))
    train = Collator(data, ["item_id", "cat"], causal)(windows)
    assert train.labels("item_id")[0].tolist() == [1, 2]
    assert train.num_labels("cat") == 3
    evaluation = Collator(data, ["item_id"], causal, unknown_targets=True)(windows)
    assert evaluation.labels("item_id")[1].tolist() == data.items[1:].tolist()


@pytest.mark.parametrize("masking", [causal, causal_last])
def test_events_before_label_from_are_context_only(masking):
    data = make_dataset([4, 6, 3])
    windows = Windows(np.arange(3), data.offsets[:-1], data.offsets[1:], np.array([2, 4 + 5, 10 + 9]))
    batch = Collator(data, HEADS, masking)(windows)
    assert batch.inputs["item_id"][1].tolist() == data.items[4:9].tolist()
    events = [2, 3, 9] if masking is causal else [3, 9]
    assert batch.labels("item_id")[0].tolist() == [n - 1 if n < 4 else 5 + n - 4 - 1 for n in events]
    for head in ("item_id", "cat", "timestamp_interval"):
        assert batch.labels(head)[1].tolist() == data.columns[head][events].tolist()
    assert (
        batch.labels("classification")[1].tolist() == data.item_columns["classification"][data.items[events]].tolist()
    )
    part = windows[np.array([1])]
    assert part.label_from.tolist() == [9]


def test_no_label_stays_in_the_padding_of_a_shorter_window():
    data = make_dataset([3, 6])
    batch = Collator(data, HEADS, causal)(Windows(np.arange(2), data.offsets[:-1], data.offsets[1:]))
    assert batch.lengths.tolist() == [2, 5]
    for name, values in batch.inputs.items():
        assert (values[0, 2:] == 0).all(), name
        assert values[0, :2].tolist() == data.columns[name][:2].tolist()


@pytest.mark.parametrize("masking", [mlm, span, permutation, replaced])
def test_what_hides_its_labels_has_whole_windows_as_inputs_and_labels_at_their_places(masking):
    data = make_dataset([4, 6])
    windows = Windows(np.arange(2), data.offsets[:-1], data.offsets[1:], draw=(7,))
    batch = Collator(data, HEADS, masking)(windows)
    assert batch.lengths.tolist() == [4, 6]
    assert batch.inputs["item_id"].tolist() == [[*data.items[:4].tolist(), 0, 0], data.items[4:].tolist()]
    positions, _ = batch.labels("item_id")
    rows, steps = positions // 6, positions % 6
    events = (torch.from_numpy(data.offsets[:-1])[rows] + steps).tolist()
    for head in HEADS:
        same, targets = batch.labels(head)
        assert same.tolist() == positions.tolist()
        held = data.item_columns[head][data.items] if head == "classification" else data.columns[head]
        assert targets.tolist() == held[events].tolist()
    if masking is permutation:
        assert "input_mask" not in batch
        assert batch["attention_mask"].shape == (2, 6, 6)
    else:
        assert batch["input_mask"].flatten().nonzero().squeeze(1).tolist() == positions.tolist()


def test_a_far_label_is_cut_by_where_the_event_stands():
    data = make_dataset([5])
    windows = Windows(np.array([0]), np.array([0]), np.array([5]), np.array([4]))
    batch = Collator(data, HEADS, final_value)(windows)  # all positions predict event 4, which counts
    assert batch.labels("item_id")[0].tolist() == [0, 1, 2, 3]
    assert batch.labels("cat")[1].tolist() == [int(data.columns["cat"][4])] * 4


def test_what_is_hidden_depends_on_the_windows_draw_alone():
    data = make_dataset([9, 9, 9])
    collate = Collator(data, ["item_id"], mlm)

    def hidden(*draw: int) -> list[int]:
        windows = Windows(np.arange(3), data.offsets[:-1], data.offsets[1:], draw=draw)
        return collate(windows).labels("item_id")[0].tolist()

    assert hidden(0, 1) == hidden(0, 1)
    assert len({tuple(hidden(*draw)) for draw in ((0, 1), (0, 2), (1, 1), (2**32 - 1, 5))}) == 4
    part = Windows(np.arange(3), data.offsets[:-1], data.offsets[1:], draw=(4,))[np.array([1])]
    assert part.draw == (4,)


def test_iterate_visits_every_window_once_longest_first():
    data = make_dataset([3, 9, 5, 2, 7])
    windows = evaluation_windows(data, 4, "all")
    seen, widths = [], []
    for chosen, batch in iterate(Collator(data, ["item_id"], causal), windows, 3):
        seen += chosen.tolist()
        widths.append(batch.inputs["item_id"].shape[1])
        assert batch.row_id.tolist() == windows.row[chosen].tolist()
    assert sorted(seen) == list(range(len(windows)))
    assert widths == sorted(widths, reverse=True)


def test_window_dataset_hands_batches_through():
    windows = Windows(np.array([0]), np.array([0]), np.array([2]))
    dataset = WindowDataset(7)
    assert len(dataset) == 7
    assert dataset.__getitems__(windows) is windows
