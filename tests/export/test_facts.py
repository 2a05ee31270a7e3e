"""Zones as tables against the zones themselves."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from recsys.export.facts import zone_changes


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Africa/Casablanca"])
def test_offsets_of_any_moment(zone: str) -> None:
    changes = zone_changes(zone)
    starts, offsets = np.array(changes["starts"], dtype=np.int64), changes["offsets"]
    rng = np.random.default_rng(0)
    seconds = [*rng.integers(0, 4_102_444_800, 500).tolist(), *(starts // 10**6), *(starts // 10**6 - 1)]
    for second in map(int, seconds):
        expected = datetime.fromtimestamp(second, UTC).astimezone(ZoneInfo(zone)).utcoffset()
        assert expected is not None
        assert offsets[np.searchsorted(starts, second * 10**6, side="right")] == expected.total_seconds()
    assert len(offsets) == len(starts) + 1 and (zone != "UTC" or not len(starts))
