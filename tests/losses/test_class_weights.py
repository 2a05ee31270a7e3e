"""Class weights against scikit-learn's, and as a list."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from recsys.errors import ConfigError
from recsys.losses import given_weights, inverse_frequency


def test_equals_scikit_learn():
    labels = np.repeat([3, 4, 6], [7, 2, 1])
    counts = torch.from_numpy(np.bincount(labels, minlength=7))
    weights = inverse_frequency(counts, 3)
    want = compute_class_weight("balanced", classes=np.array([3, 4, 6]), y=labels)
    assert weights[[3, 4, 6]].tolist() == pytest.approx(want.tolist())
    assert weights[:3].tolist() == [0, 0, 0] and weights[5] == weights[6]
    assert float(weights[torch.from_numpy(labels)].mean()) == pytest.approx(1.0)


def test_reserved_ids_do_not_count():
    assert torch.equal(
        inverse_frequency(torch.tensor([9, 9, 9, 1, 3]), 3), inverse_frequency(torch.tensor([0, 0, 0, 1, 3]), 3)
    )
    with pytest.raises(ConfigError, match="no class has a count"):
        inverse_frequency(torch.tensor([9, 9, 9, 0]), 3)


def test_a_list_has_one_value_a_class():
    assert given_weights([1.0, 2.5], "cat", 5, 3).tolist() == [0, 0, 0, 1.0, 2.5]
    with pytest.raises(ConfigError, match="3 values for the 2 classes of 'cat'"):
        given_weights([1.0, 2.0, 3.0], "cat", 5, 3)
    with pytest.raises(ConfigError, match="all 2 values of 'cat' are 0"):
        given_weights([0.0, 0.0], "cat", 5, 3)
