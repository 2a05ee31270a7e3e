"""Label positions against a loop over rows and steps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.nn.masking import causal, causal_last

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def padded(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(3, 3 + length) + 10 * row
    return ids, torch.tensor(lengths)


@given(LENGTHS)
def test_causal_labels_every_event_but_the_first(lengths):
    ids, sizes = padded(lengths)
    expected = [(r * ids.shape[1] + t, int(ids[r, t + 1])) for r, n in enumerate(lengths) for t in range(n - 1)]
    masked = causal(ids, sizes)
    assert list(zip(masked.positions.tolist(), masked.targets.tolist(), strict=True)) == expected
    assert masked.input_mask is None


@given(LENGTHS)
def test_causal_last_labels_the_last_event_of_rows_with_a_history(lengths):
    ids, sizes = padded(lengths)
    expected = [(r * ids.shape[1] + n - 2, int(ids[r, n - 1])) for r, n in enumerate(lengths) if n > 1]
    masked = causal_last(ids, sizes)
    assert list(zip(masked.positions.tolist(), masked.targets.tolist(), strict=True)) == expected


def test_padding_is_told_by_length_not_by_id():
    ids = torch.tensor([[5, 0, 6]])  # an id 0 in the middle is a valid event
    assert causal(ids, torch.tensor([3])).targets.tolist() == [0, 6]
