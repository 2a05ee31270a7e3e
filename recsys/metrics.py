"""Ranks, ranking metrics and bootstrap intervals; numpy only.

One position has one target, so a rank says all. ``rank = 1 + number of other candidates whose score is at
least the target's``: ties count against us. **Rank 0 means an unknown target** (never seen in training, or
reserved, or removed from the candidates): a miss at every k, as if its rank were infinite.

Functions named ``<metric>_at_k`` take ranks ``[P]`` and return one value a position, ``[P]`` float64; the
metric is their mean. With a single target hit rate and recall are the same number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
DEFAULT_KS = (1, 3, 5, 10)
_BLOCK = 2**22
"""Numbers held at once by the blocked loops below."""


def ranks_from_scores(
    scores: npt.NDArray[Any], targets: npt.ArrayLike, excluded: npt.NDArray[np.bool_] | None = None
) -> Ints:
    """Rank of each position's target among the candidates, ties counted against it.

    scores: ``[P, V]`` float. targets: ``[P]`` integers; a negative one is an unknown target.
    excluded: ``[V]`` or ``[P, V]`` bool, items that are no candidates (reserved ids, seen items); a target
    among them can never be recommended and is unknown. Returns ``[P]`` int64, 0 where the target is unknown.

    Raises InputError where shapes do not fit, a target is V or more, or any score is NaN.

    >>> ranks_from_scores(np.array([[0.1, 0.5, 0.2], [0.3, 0.3, 0.1], [0.0, 0.0, 9.0]]), [1, 0, -1])
    array([1, 2, 0])
    """
    scores, wanted = np.asarray(scores), np.asarray(targets)
    _check_scores(scores, wanted, excluded)
    ranks = np.zeros(len(wanted), dtype=np.int64)
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(wanted), step):
        block = scores[start : start + step]  # [n, V]
        target = wanted[start : start + step].astype(np.int64)  # [n]
        bad = np.isnan(block)
        if bad.any():
            row, item = np.argwhere(bad)[0]
            raise InputError(f"scores: NaN at position {start + row}, item {item}")
        known = target >= 0
        at = np.where(known, target, 0)[:, None]  # [n, 1]
        beats = block >= np.take_along_axis(block, at, axis=1)  # [n, V]
        if excluded is not None:
            part = excluded if excluded.ndim == 1 else excluded[start : start + step]
            out = np.broadcast_to(part, block.shape)  # [n, V]
            beats &= ~out
            known &= ~np.take_along_axis(out, at, axis=1)[:, 0]
        # The target itself is at least as high as itself: it is the 1 of the definition.
        ranks[start : start + step] = np.where(known, beats.sum(axis=1), 0)
    return ranks


def _check_scores(scores: npt.NDArray[Any], targets: npt.NDArray[Any], excluded: npt.NDArray[np.bool_] | None) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise InputError(f"scores {list(scores.shape)}, targets {list(targets.shape)} must be [P, V], [P]")
    if targets.size and not np.issubdtype(targets.dtype, np.integer):
        raise InputError(f"targets are {targets.dtype}; they must be integers")
    if targets.size and int(targets.max()) >= scores.shape[1]:
        raise InputError(f"target {int(targets.max())} is not below the number of items ({scores.shape[1]})")
    if excluded is None:
        return
    if excluded.dtype != np.bool_ or excluded.shape not in (scores.shape[1:], scores.shape):
        raise InputError(
            f"excluded {list(excluded.shape)} {excluded.dtype} must be bool, "
            f"[{scores.shape[1]}] or {list(scores.shape)}"
        )


def recall_at_k(ranks: npt.ArrayLike, k: int) -> Floats:
    r"""Recall@k with one target, ``[P]``: :math:`[1 \le rank \le k]`.

    >>> recall_at_k([1, 4, 0, 10], 4)
    array([1., 1., 0., 0.])
    """
    checked = _checked(ranks, k)
    return ((checked >= 1) & (checked <= k)).astype(np.float64)


def hit_rate_at_k(ranks: npt.ArrayLike, k: int) -> Floats:
    """Hit rate@k, ``[P]``; with one target a position it equals recall.

    >>> hit_rate_at_k([1, 4, 0, 10], 4)
    array([1., 1., 0., 0.])
    """
    return recall_at_k(ranks, k)


def ndcg_at_k(ranks: npt.ArrayLike, k: int) -> Floats:
    r"""NDCG@k with one target, ``[P]``: :math:`[1 \le rank \le k] / \log_2(1 + rank)`, the ideal DCG being 1.

    >>> ndcg_at_k([1, 3, 0, 10], 4)
    array([1. , 0.5, 0. , 0. ])
    """
    checked = _checked(ranks, k)
    return recall_at_k(checked, k) / np.log2(1.0 + np.maximum(checked, 1))


def mrr_at_k(ranks: npt.ArrayLike, k: int | None = None) -> Floats:
    r"""Reciprocal rank, ``[P]``: :math:`[1 \le rank \le k] / rank`; 0 outside the top k. k None: whole list.

    >>> mrr_at_k([1, 4, 0, 10], 4)
    array([1.  , 0.25, 0.  , 0.  ])
    >>> mrr_at_k([1, 4, 0, 10])
    array([1.  , 0.25, 0.  , 0.1 ])
    """
    checked = _checked(ranks, 1 if k is None else k)
    hit = (checked >= 1) if k is None else (checked >= 1) & (checked <= k)
    return hit / np.maximum(checked, 1)


def _checked(ranks: npt.ArrayLike, k: int) -> Ints:
    array = np.asarray(ranks)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError(f"ranks {list(array.shape)} {array.dtype} must be integers [P]")
    if array.size and int(array.min()) < 0:
        raise InputError(f"rank {int(array.min())} is negative; ranks start at 1, and 0 is an unknown target")
    if k < 1:
        raise ConfigError(f"k ({k}) must be at least 1")
    return array.astype(np.int64, copy=False)


def position_metrics(ranks: npt.ArrayLike, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Floats]:
    """One value a position, ``[P]``: ``recall@k``, ``ndcg@k``, ``mrr@k`` for each k, and ``mrr``.

    >>> sorted(position_metrics([1, 2], ks=(5,)))
    ['mrr', 'mrr@5', 'ndcg@5', 'recall@5']
    """
    functions = {"recall": recall_at_k, "ndcg": ndcg_at_k, "mrr": mrr_at_k}
    values = {f"{name}@{k}": function(ranks, k) for name, function in functions.items() for k in ks}
    return values | {"mrr": mrr_at_k(ranks)}


def ranking_metrics(ranks: npt.ArrayLike, ks: Sequence[int] = DEFAULT_KS) -> dict[str, float]:
    """Means over the positions of `position_metrics`. Raises InputError where there is no position.

    >>> ranking_metrics([1, 2, 0, 4], ks=(3,))["recall@3"]
    0.5
    >>> ranking_metrics([1, 2, 0, 4], ks=(3,))["mrr"]
    0.4375
    """
    if np.size(ranks) == 0:
        raise InputError("no position to score: metrics of an empty set are undefined")
    return {name: float(values.mean()) for name, values in position_metrics(ranks, ks).items()}


def coverage(top_k_lists: npt.ArrayLike, num_items: int) -> float:
    """Share of the catalogue that is recommended to anybody: distinct items in the lists / num_items.

    top_k_lists: ``[P, k]`` ids, negative where a list is shorter. num_items: items that can be recommended
    (reserved ids not counted).

    >>> coverage([[3, 4], [4, -1]], num_items=8)
    0.25
    """
    ids = np.asarray(top_k_lists)
    distinct = len(np.unique(ids[ids >= 0]))
    if num_items < max(distinct, 1):
        raise InputError(f"num_items ({num_items}) is below the {distinct} distinct items recommended")
    return distinct / num_items


def mean_reciprocal_popularity(top_k_lists: npt.ArrayLike, item_counts: npt.ArrayLike) -> float:
    r"""How far the lists reach beyond the popular: mean over lists of the mean of ``1 / (1 + count)``.

    :math:`\frac{1}{P} \sum_p \frac{1}{|L_p|} \sum_{i \in L_p} \frac{1}{1 + n_i}` with :math:`n_i` the
    events of item i in train; in (0, 1], 1 for lists of items that training never saw. Negative ids are
    skipped, and empty lists left out; raises InputError where every list is empty.

    top_k_lists: ``[P, k]`` ids. item_counts: ``[V]`` events in train.

    >>> mean_reciprocal_popularity([[0, 1], [1, -1]], item_counts=[0, 3])
    0.4375
    """
    ids, counts = np.asarray(top_k_lists), np.asarray(item_counts, dtype=np.float64)
    if ids.ndim != 2 or (ids.size and int(ids.max()) >= len(counts)):
        raise InputError(f"top_k_lists {list(ids.shape)} must be [P, k] with ids below {len(counts)}")
    present = ids >= 0
    lengths = present.sum(axis=1)
    if not lengths.any():
        raise InputError("every list is empty: mean reciprocal popularity is undefined")
    reciprocal = np.where(present, 1.0 / (1.0 + counts[np.where(present, ids, 0)]), 0.0)  # [P, k]
    filled = lengths > 0
    return float((reciprocal.sum(axis=1)[filled] / lengths[filled]).mean())


def bootstrap_interval(
    values: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` ``[P]`` (Efron and Tibshirani 1993, ch. 13).

    groups: ``[P]`` session or user of each position; whole groups are drawn, since positions of one person
    are not independent. Without groups positions are drawn. Returns (low, high).

    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    return bootstrap_intervals({"mean": np.asarray(values)}, groups, samples, seed, level)["mean"]


def bootstrap_intervals(
    columns: Mapping[str, npt.NDArray[Any]],
    groups: npt.ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """As `bootstrap_interval` for several columns ``[P]`` at once, all on the same resamples.

    >>> bootstrap_intervals({"a": np.ones(4), "b": np.zeros(4)}, groups=[1, 1, 2, 3], samples=10)
    {'a': (1.0, 1.0), 'b': (0.0, 0.0)}
    """
    if samples < 1 or not 0 < level < 1:
        raise ConfigError(f"samples ({samples}) must be at least 1 and level ({level}) between 0 and 1")
    if not columns or any(np.ndim(c) != 1 or np.size(c) == 0 for c in columns.values()):
        raise InputError("bootstrap: values must be [P] with at least one position")
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)  # [P, M]
    table = np.concatenate([table, np.ones((len(table), 1))], axis=1)  # [P, M + 1], last the count
    if groups is not None:
        labels = np.asarray(groups)
        if labels.shape != table.shape[:1]:
            raise InputError(f"groups {list(labels.shape)} must be [{len(table)}], one a position")
        names, inverse = np.unique(labels, return_inverse=True)
        sums = [np.bincount(inverse, weights=column, minlength=len(names)) for column in table.T]
        table = np.stack(sums, axis=1)  # [G, M + 1]
    means = _resampled_means(table, samples, np.random.default_rng(seed))  # [samples, M]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(columns)}


def _resampled_means(table: Floats, samples: int, rng: np.random.Generator) -> Floats:
    """Means ``[samples, M]`` of resampled groups from their sums and counts ``[G, M + 1]``."""
    size = len(table)
    totals = np.empty((samples, table.shape[1]))
    step = max(1, _BLOCK // size)
    for start in range(0, samples, step):
        n = min(step, samples - start)
        # How often each group was drawn; a product with the sums then replaces gathering them.
        drawn = rng.integers(0, size, size=(n, size), dtype=np.int32)
        times = np.stack([np.bincount(row, minlength=size) for row in drawn])  # [n, G]
        totals[start : start + n] = times.astype(np.float64) @ table
    return totals[:, :-1] / totals[:, -1:]
