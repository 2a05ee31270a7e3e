"""When two lists are the same: scores within the tolerance, places exchanged only among near ties."""

import subprocess
import sys

import pytest

from recsys.serving.bundle import Answer
from recsys.serving.verify import difference, score_difference


def answer(*pairs: tuple[str, float]) -> Answer:
    return Answer([p[0] for p in pairs], [p[1] for p in pairs], [0.0] * len(pairs))


WANTED = answer(("a", 3.0), ("b", 2.0), ("c", 2.0 - 1e-5), ("d", -400.0))


@pytest.mark.parametrize(
    "found",
    [
        WANTED,
        answer(("a", 3.0 + 1e-4), ("b", 2.0), ("c", 2.0), ("d", -400.03)),
        answer(("a", 3.0), ("c", 2.0), ("b", 2.0 - 1e-5), ("d", -400.0)),
        answer(("a", 3.0), ("b", 2.0), ("c", 2.0), ("e", -400.0)),  # a tie with what is not listed
    ],
)
def test_the_same(found: Answer) -> None:
    assert difference(found, WANTED, 1e-4) is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (answer(("a", 3.0)), "1 items, expected 4"),
        (answer(("a", 3.1), ("b", 2.0), ("c", 2.0), ("d", -400.0)), "place 1 has score 3.1, expected 3"),
        (answer(("a", float("nan")), ("b", 2.0), ("c", 2.0), ("d", -400.0)), "place 1 has score nan, expected 3"),
        (answer(("b", 3.0), ("a", 2.0), ("c", 2.0), ("d", -400.0)), "place 1 is 'b', expected 'a'"),
        (answer(("x", 3.0), ("b", 2.0), ("c", 2.0), ("d", -400.0)), "place 1 is 'x', expected 'a'"),
    ],
)
def test_not_the_same(found: Answer, reason: str) -> None:
    assert difference(found, WANTED, 1e-4) == reason


def test_largest_difference() -> None:
    assert score_difference(answer(("a", 1.0), ("b", -2.0)), answer(("a", 1.5), ("b", 1.0))) == 3.0
    assert score_difference(answer(), answer()) == 0.0


def test_answering_loads_neither_pytorch_nor_polars() -> None:
    code = (
        "import sys, recsys.serving.verify\n"
        "print([m for m in ('torch', 'polars', 'pyarrow', 'transformers', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
