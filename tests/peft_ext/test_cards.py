"""Sizes of cards by name and as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_ext.cards import CARDS, card_bytes, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24", 24 * 2**30),
        ("24 GB", 24 * 10**9),
        ("0.5 TiB", 2**39),
        ("512mib", 2**29),
        ("H100", 80 * 2**30),
        ("a100_80gb", 80 * 2**30),
        ("NVIDIA A100-40GB", 40 * 2**30),
        ("GeForce RTX 4090", 24 * 2**30),
        ("h200", 141 * 10**9),
    ],
)
def test_sizes_and_names(text: str, size: int) -> None:
    assert card_bytes(text) == size


@pytest.mark.parametrize("text", ["0", "0GiB", "0.0", "-3", "", "GiB", "24 KiB", "nan", "inf", "1e3", "H10"])
def test_what_is_no_card_lists_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--card ") as caught:
        card_bytes(text)
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in CARDS)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"no card of that name \(did you mean RTX4090\?\)"):
        card_bytes("rtx409")


@given(st.integers(0, 2**50))
def test_sizes_for_people_are_right_to_three_digits(size: int) -> None:
    number, unit = size_text(size).replace(",", "").split(" ")
    factor = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert float(number) * factor == pytest.approx(size, rel=0.006)
    assert factor == 1 or float(number) >= 1
