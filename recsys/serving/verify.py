"""`recsys verify`: is a bundle what was exported, and does it answer here as it answered there?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import InputError, one_line
from recsys.serving.bundle import Answer, Bundle

GOLDEN = "golden.json"


@dataclass(frozen=True)
class Verified:
    """A bundle that holds: its manifest, how many golden requests were replayed, the largest difference of scores."""

    manifest: Mapping[str, Any]
    requests: int
    difference: float

    def line(self, path: Path) -> str:
        """What a person should know of it."""
        files = len(self.manifest["files"])
        return (
            f"{path}: {files} files hold, {self.requests} golden requests have the answers of the export; "
            f"scores differ by at most {self.difference:.1e}"
        )


def verify(folder: Path | str) -> Verified:
    """Check every hash, then replay the golden requests through the fused graph and through the two of the ensemble.

    Raises:
        InputError: what differs, the first of it.
    """
    folder = Path(folder)
    bundle = Bundle.open(folder)
    requests, answers, k = read_golden(folder)
    tolerance = float(bundle.manifest["tolerance"])
    largest = 0.0
    for path in ("fused", "ensemble"):
        replayed = bundle if path == "fused" else Bundle(folder, bundle.manifest, path)
        for n, (found, wanted) in enumerate(zip(replay(replayed, requests, k), answers, strict=True)):
            reason = difference(found, wanted, tolerance)
            if reason is not None:
                raise InputError(
                    f"{folder}: golden request {n + 1} ({path}): {reason}; this machine or its onnxruntime computes "
                    "otherwise than where the bundle was exported: export the run here"
                )
            largest = max(largest, score_difference(found, wanted))
    return Verified(bundle.manifest, len(requests), largest)


def read_golden(folder: Path) -> tuple[list[Any], list[Answer], int]:
    """Golden requests, their answers, and how many items were asked for."""
    try:
        golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
        return golden["requests"], [Answer(**answer) for answer in golden["answers"]], golden["k"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{folder / GOLDEN}: no golden requests: {one_line(error)}; export the run again") from error


def replay(bundle: Bundle, requests: Sequence[Any], k: int) -> list[Answer]:
    """Answers to golden requests, one request at a time as a server gets them."""
    return [bundle.recommend([r["columns"]], k, remove_seen=r["remove_seen"])[0] for r in requests]


def difference(found: Answer, wanted: Answer, tolerance: float) -> str | None:
    """Why two lists are not the same; None where they are.

    Scores may differ by `tolerance` times the larger of 1 and the score; items may change places only where their
    scores are so near each other.
    """
    if len(found.items) != len(wanted.items):
        return f"{len(found.items)} items, expected {len(wanted.items)}"
    for place, (score, right) in enumerate(zip(found.scores, wanted.scores, strict=True)):
        room = tolerance * max(1.0, abs(right))
        if not abs(score - right) <= room:
            return f"place {place + 1} has score {score:.6g}, expected {right:.6g}"
        item = wanted.items[place]
        if found.items[place] == item:
            continue
        # Behind the last place stands what is not listed, so near ties there cannot be looked up.
        near = [s for i, s in zip(found.items, found.scores, strict=True) if i == item] or [wanted.scores[-1]]
        if not abs(near[0] - right) <= 2 * room:
            return f"place {place + 1} is {found.items[place]!r}, expected {item!r}"
    return None


def score_difference(found: Answer, wanted: Answer) -> float:
    """Largest difference of the scores of two lists of one length, place by place."""
    return float(np.abs(np.subtract(found.scores, wanted.scores)).max(initial=0.0))
