"""The detector's loss against a loop, and draws against their probabilities."""

import math

import numpy as np
import pytest
import torch

from recsys.nn.detection import ReplacedDetector, draw_from_scores


def test_loss_is_that_of_a_loop_over_valid_events():
    torch.manual_seed(0)
    detector, lengths = ReplacedDetector(4, weight=2.0), [3, 1, 5]
    hidden, replaced = torch.randn(3, 5, 4), torch.rand(3, 5) < 0.4
    hidden[1, 1:] = float("nan")  # what stands in the padding is not read
    total, count = detector.loss(hidden, replaced, torch.tensor(lengths))
    expected = 0.0
    for row, length in enumerate(lengths):
        for step in range(length):
            with torch.no_grad():
                p = 1 / (1 + math.exp(-float(detector.linear(hidden[row, step]))))
            expected -= math.log(p if replaced[row, step] else 1 - p)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    assert int(count) == 9


def test_ids_are_drawn_by_the_softmax_of_their_scores():
    torch.manual_seed(0)
    scores = torch.tensor([float("-inf"), 0.0, math.log(3.0), math.log(6.0)]).expand(20_000, -1)
    shares = torch.bincount(draw_from_scores(scores), minlength=4) / len(scores)
    np.testing.assert_allclose(shares, [0.0, 0.1, 0.3, 0.6], atol=0.015)
