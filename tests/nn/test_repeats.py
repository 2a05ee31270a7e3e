"""Histories against a walk over each sequence, and the bias by age against counting."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.nn.repeats import RepeatBias, histories


def walk(items: list[int], step: int, width: int) -> list[int]:
    """The last `width` places before `step + 1`, newest last; an item's earlier places are 0."""
    found, seen = [0] * width, set()
    for age, item in enumerate(reversed(items[: step + 1]), start=1):
        if item not in seen:
            found[width - age] = item
        seen.add(item)
    return found


@given(st.data())
def test_each_item_once_at_its_latest_place(data: st.DataObject) -> None:
    batch, time = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 7))
    items = data.draw(
        st.lists(st.lists(st.integers(1, 5), min_size=time, max_size=time), min_size=batch, max_size=batch)
    )
    every = [(row, step) for row in range(batch) for step in range(time)]
    places = data.draw(st.lists(st.sampled_from(every), max_size=12))
    rows, steps = (torch.tensor([place[n] for place in places], dtype=torch.int64) for n in range(2))
    found = histories(torch.tensor(items), rows, steps)
    assert found.shape == (len(places), time)
    assert found.tolist() == [walk(items[row], step, time) for row, step in places]


def test_the_bias_doubles_its_ages() -> None:
    bias = RepeatBias(9)
    with torch.no_grad():
        bias.weight.copy_(torch.arange(len(bias.weight)).float())
    oldest_first = [3, 3, 3, 3, 2, 2, 1, 0]  # 8 to 5, 4 and 3, 2, 1 events ago
    assert bias(torch.zeros(2, 8, dtype=torch.int64)).tolist() == [oldest_first] * 2
    assert bias(torch.zeros(1, 12, dtype=torch.int64)).tolist() == [[4, 4, 4, 4, *oldest_first]]


def test_the_bias_of_one_event() -> None:
    bias = RepeatBias(1)
    assert bias.weight.tolist() == [0]
    assert bias(torch.zeros(3, 1, dtype=torch.int64)).shape == (3, 1)


def test_it_is_made_without_numbers_for_a_memory_plan() -> None:
    with torch.device("meta"):
        assert RepeatBias(9).weight.shape == (5,)
