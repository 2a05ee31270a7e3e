"""Counting baselines against plain loops over dictionaries."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.baselines import LastItem, Markov1, Markov2, Popularity
from recsys.errors import ConfigError, InputError

FIRST, V = 3, 8
SEQUENCES = st.lists(st.lists(st.integers(2, V - 1), min_size=0, max_size=9), min_size=1, max_size=6)


def ragged(sequences) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([i for s in sequences for i in s], dtype=np.int64)
    return values, np.cumsum([0] + [len(s) for s in sequences])


def transitions(sequences):
    """(two before, one before, target) of every event with a target that can be recommended."""
    for s in sequences:
        for i, target in enumerate(s):
            if target >= FIRST:
                yield (s[i - 2] if i >= 2 else 0), (s[i - 1] if i >= 1 else 0), target


def plain_scores(sequences, previous, last, order, k) -> list[float]:
    """The docstrings' formulas with dictionaries; the item part only."""
    rows = list(transitions(sequences))
    popularity = Counter(c for _, _, c in rows)
    first, second = Counter((b, c) for _, b, c in rows), Counter(rows)
    n1, n2 = Counter(b for _, b, _ in rows), Counter((a, b) for a, b, _ in rows)
    out = []
    for c in range(FIRST, V):
        s = popularity[c] / len(rows)
        if order >= 1:
            s = (first[last, c] + k * s) / (n1[last] + k)
        if order >= 2:
            s = (second[previous, last, c] + k * s) / (n2[previous, last] + k)
        out.append(s)
    return out


@settings(max_examples=60, deadline=None)
@given(sequences=SEQUENCES, k=st.sampled_from([0.5, 3.0, 20.0]))
def test_scores_equal_the_formulas(sequences, k):
    if not any(i >= FIRST for s in sequences for i in s):
        return
    values, offsets = ragged(sequences)
    previous, last = (x.ravel() for x in np.meshgrid(np.arange(V), np.arange(V)))
    for order, model in enumerate((Popularity(), Markov1(k=k), Markov2(k=k))):
        got = model.fit(values, offsets, V).scores(previous, last)
        want = [plain_scores(sequences, a, b, order, k) for a, b in zip(previous, last, strict=True)]
        assert np.isneginf(got[:, :FIRST]).all()
        np.testing.assert_allclose(got[:, FIRST:], want, rtol=1e-12)
        np.testing.assert_allclose(got[:, FIRST:].sum(axis=1), 1.0)


@settings(max_examples=40, deadline=None)
@given(sequences=SEQUENCES)
def test_counts_are_all_that_popularity_and_last_item_need(sequences):
    if not any(i >= FIRST for s in sequences for i in s):
        return
    values, offsets = ragged(sequences)
    previous, last = (x.ravel() for x in np.meshgrid(np.arange(V), np.arange(V)))
    for kind in (Popularity, LastItem):
        want = kind().fit(values, offsets, V)
        got = kind().fit_counts(np.bincount(values, minlength=V))
        np.testing.assert_array_equal(got.item_counts, want.item_counts)
        np.testing.assert_array_equal(got.scores(previous, last), want.scores(previous, last))


def test_fit_of_counts_takes_no_memory_for_the_events():
    counts = np.array([0, 10**15, 10**15, 3 * 10**14, 10**14])
    scores = Popularity().fit_counts(counts).scores([0], [3])
    assert scores[0].tolist() == [-np.inf, -np.inf, -np.inf, 0.75, 0.25]
    assert counts[1] == 10**15  # the caller's


def test_markov2_uses_both_items_and_backs_off():
    train = [[3, 4, 5], [3, 4, 5], [6, 4, 7], [6, 4, 7], [3, 4, 5]]
    model = Markov2().fit(*ragged(train), V)
    after = model.scores([3, 6, 7], [4, 4, 4]).argmax(axis=1)
    assert after.tolist() == [5, 7, 5]  # the last pair is unseen: Markov-1 says 5, three times to two
    first = Markov1().fit(*ragged(train), V)
    np.testing.assert_array_equal(model.scores([7], [4]), first.scores([7], [4]))
    popularity = Popularity().fit(*ragged(train), V)
    np.testing.assert_array_equal(model.scores([7], [2]), popularity.scores([7], [2]))


def test_last_item_then_popularity():
    model = LastItem().fit(*ragged([[3, 3, 3, 4, 4, 5]]), V)
    order = np.argsort(-model.scores([0, 3], [5, 2]), axis=1, kind="stable")
    assert order[0, :3].tolist() == [5, 3, 4]
    assert order[1, :3].tolist() == [3, 4, 5]  # a reserved last id is never recommended


def test_contexts_do_not_cross_sequences():
    train = ragged([[3, 4], [5, 6], [], [7]])
    contexts = ([0, 0], [4, 6])  # both end their sequence: nothing ever followed them
    want = Popularity().fit(*train, V).scores(*contexts)
    np.testing.assert_array_equal(Markov1().fit(*train, V).scores(*contexts), want)


def test_input_is_checked():
    values, offsets = ragged([[3, 4, 5]])
    with pytest.raises(InputError, match="not fitted"):
        Markov1().scores([3], [4])
    with pytest.raises(InputError, match="item id 5 is out of range"):
        Popularity().fit(values, offsets, 5)
    with pytest.raises(InputError, match="offsets"):
        Popularity().fit(values, [0, 2], V)
    with pytest.raises(InputError, match="num_items"):
        Popularity().fit([2], [0, 1], 3)
    with pytest.raises(InputError, match="nothing to count"):
        Popularity().fit([2], [0, 1], V)
    fitted = Markov2().fit(values, offsets, V)
    with pytest.raises(InputError, match="context ids"):
        fitted.scores([3], [V])
    with pytest.raises(InputError, match="both be"):
        fitted.scores([3], [4, 5])
    for counts in ([[1.0]], [0, 0, 0, -1.0], [0, 0, 0, np.nan]):
        with pytest.raises(InputError, match="finite numbers of at least 0"):
            Popularity().fit_counts(counts)
    with pytest.raises(InputError, match="nothing to count"):
        LastItem().fit_counts([5, 5, 5, 0])
    with pytest.raises(ConfigError, match="k"):
        Markov1(k=0.0)
    with pytest.raises(ConfigError, match="first_id"):
        Popularity(first_id=0)
