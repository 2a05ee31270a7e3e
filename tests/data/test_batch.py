"""The batch is a mapping that training libraries move as it is."""

from collections.abc import Mapping

import torch
from accelerate.utils import send_to_device

from recsys.data.batch import Batch


def make_batch() -> Batch:
    return Batch(
        {
            "inputs.item_id": torch.tensor([[3, 4, 0]]),
            "lengths": torch.tensor([2]),
            "row_id": torch.tensor([9]),
            "labels.item_id.positions": torch.tensor([0, 1]),
            "labels.item_id.targets": torch.tensor([4, 5]),
        }
    )


def test_access_by_name():
    batch = make_batch()
    assert isinstance(batch, Mapping)
    assert list(batch.inputs) == ["item_id"]
    assert batch.label_heads() == ["item_id"]
    assert batch.num_labels("item_id") == 2
    assert [v.tolist() for v in batch.labels("item_id")] == [[0, 1], [4, 5]]
    assert "inputs.item_id [1, 3]" in repr(batch)


def test_accelerate_moves_it_and_keeps_its_type():
    moved = send_to_device(make_batch(), torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert {k: v.tolist() for k, v in moved.items()} == {k: v.tolist() for k, v in make_batch().items()}


def test_with_tensors_leaves_the_original_alone():
    batch = make_batch()
    assert batch.with_tensors({"lengths": torch.tensor([1])}).lengths.tolist() == [1]
    assert batch.lengths.tolist() == [2]
