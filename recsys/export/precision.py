"""What 8-bit weights change of a run's answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.export.golden import make_requests, offline_answers
from recsys.inference import LoadedRun, load
from recsys.serving.bundle import Answer, Bundle
from recsys.serving.transform import Transform
from recsys.serving.verify import replay

REQUESTS = 100


def int8_answers(
    run: LoadedRun,
    folder: Path,
    transform: Transform,
    vocabularies: dict[str, list[str]],
    requests: Sequence[Any],
    k: int,
) -> tuple[dict[str, Any], list[Answer]]:
    """How the quantised graphs in `folder` differ from the run on `REQUESTS` made-up sessions, and their own answers.

    Returns:
        the differences as the manifest has them; the answers to `requests`.
    """
    bundle = Bundle(folder, {})
    others = make_requests(transform, vocabularies, REQUESTS, seed=1)
    full = offline_answers(load(run.path, device="cpu"), transform, others, k)
    found = replay(bundle, others, k)
    gaps = [abs(scores[i] - s) for f, w in zip(found, full, strict=True) for scores, i, s in _shared(f, w)]
    listed = sum(len(w.items) for w in full)
    measured = {
        "requests": len(others),
        "mean_score_difference": float(np.mean(gaps)) if gaps else 0.0,
        "max_score_difference": float(np.max(gaps)) if gaps else 0.0,
        "same_first": sum(f.items[:1] == w.items[:1] for f, w in zip(found, full, strict=True)) / len(full),
        "same_items": len(gaps) / listed if listed else 1.0,
    }
    return measured, replay(bundle, requests, k)


def _shared(found: Answer, wanted: Answer) -> list[tuple[dict[str, float], str, float]]:
    """Scores found, item and its score in full precision, of the items that stand in both lists."""
    scores = dict(zip(found.items, found.scores, strict=True))
    return [(scores, i, s) for i, s in zip(wanted.items, wanted.scores, strict=True) if i in scores]
