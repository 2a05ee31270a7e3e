"""A share is a share; what a loss refuses of its arguments is tested with the losses."""

import pytest

from recsys.errors import ConfigError
from recsys.losses.checks import check_fraction


def test_a_share_is_at_least_0_and_below_1() -> None:
    check_fraction("share", 0.0)
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"share \(.*\) must be at least 0 and below 1"):
            check_fraction("share", value)
