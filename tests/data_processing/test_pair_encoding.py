"""Byte-pair encoding with incremental counts against one that counts everything anew after each merge."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_processing.pair_encoding import Merge, PairEncoder, least_count, make_blocks

LETTERS = "abcd"


def merged(tokens, pattern, collapse):
    """Tokens (tuples of letters, None never merges) with `pattern` joined from the left, and how often."""
    out, count, place = [], 0, 0
    joined = tuple(letter for token in pattern for letter in token)
    while place < len(tokens):
        if tokens[place : place + len(pattern)] == pattern:
            if not (collapse and out and out[-1] == joined):
                out.append(joined)
            count += 1
            place += len(pattern)
        else:
            out.append(tokens[place])
            place += 1
    return out, count


def plain_encoding(sessions, lists, merges, threshold, max_length, collapse):
    """The slow reference: all pairs are counted anew, by merging them, after every merge."""
    counts, known = [], {(letter,) for letter in LETTERS}
    for entry in lists:
        done = [merged(tokens, [(letter,) for letter in entry], collapse) for tokens in sessions]
        sessions = [tokens for tokens, _ in done]
        counts.append(sum(count for _, count in done))
        known.add(tuple(entry))
    found = []
    for _ in range(merges):
        pairs = {pair for tokens in sessions for pair in pairwise(tokens) if None not in pair}
        pairs = {(a, b) for a, b in pairs if len(a + b) <= max_length and a + b not in known}
        ranked = sorted((-sum(merged(t, list(pair), False)[1] for t in sessions), *pair) for pair in pairs)
        if not ranked or -ranked[0][0] < threshold:
            break
        count, left, right = -ranked[0][0], *ranked[0][1:]
        sessions = [merged(tokens, [left, right], collapse)[0] for tokens in sessions]
        known.add(left + right)
        found.append(Merge(left, right, count))
    return found, counts, Counter(token for tokens in sessions for token in tokens if token)


def fast_encoding(sessions, lists, merges, threshold, max_length, collapse, *, order=LETTERS, block=1 << 20):
    symbols = {None: 0} | {(letter,): number for number, letter in enumerate(order, 1)}
    pieces = [np.array([0, *(symbols[token] for token in tokens)], dtype=np.int32) for tokens in sessions]
    texts = [(), *((letter,) for letter in order)]
    encoder = PairEncoder(
        list(make_blocks(pieces, block)), texts, threshold=threshold, max_length=max_length, collapse=collapse
    )
    counts = [encoder.merge_list([symbols[letter,] for letter in entry]) for entry in lists]
    found = list(encoder.learn(merges))
    left_over = dict(zip(encoder.texts[1:], encoder.symbol_counts()[1:].tolist(), strict=True))
    return found, counts, Counter({text: count for text, count in left_over.items() if count})


def tokens(text):
    """'.' never merges."""
    return [None if letter == "." else (letter,) for letter in text]


SESSIONS = st.lists(st.text(LETTERS[:3] + LETTERS + ".", max_size=40).map(tokens), max_size=6)
LISTS = st.lists(st.text(LETTERS, min_size=2, max_size=4).map(list), max_size=2, unique_by=tuple)


@given(SESSIONS, LISTS, st.integers(1, 3), st.integers(2, 9), st.booleans(), st.integers(1, 60))
def test_same_merges_as_counting_everything_anew(sessions, lists, threshold, max_length, collapse, block):
    lists = sorted(lists, key=lambda entry: (-len(entry), entry))
    expected = plain_encoding(sessions, lists, 12, threshold, max_length, collapse)
    assert fast_encoding(sessions, lists, 12, threshold, max_length, collapse, block=block) == expected


@given(st.lists(st.text("ab", max_size=60).map(tokens), max_size=4), st.booleans())
def test_same_merges_of_two_letters_that_overlap_all_the_time(sessions, collapse):
    expected = plain_encoding(sessions, [], 20, 1, 64, collapse)
    assert fast_encoding(sessions, [], 20, 1, 64, collapse) == expected


@given(SESSIONS, st.permutations(LETTERS))
def test_ties_go_by_text_not_by_number(sessions, order):
    assert fast_encoding(sessions, [], 8, 1, 8, True, order=order) == fast_encoding(sessions, [], 8, 1, 8, True)


@pytest.mark.parametrize(
    ("text", "count", "left_over"),
    [("aa", 1, {"aa": 1}), ("aaa", 1, {"aa": 1, "a": 1}), ("aaaa", 2, {"aa": 2}), ("aaabaaaaa", 3, None)],
)
def test_overlapping_equal_pairs_merge_from_the_left(text, count, left_over):
    found, _, counts = fast_encoding([tokens(text)], [], 1, 1, 2, False)
    assert found == [Merge(("a",), ("a",), count)]
    if left_over:
        assert {"".join(token): number for token, number in counts.items()} == left_over


def test_repeated_workflows_collapse_and_grow_on():
    found, _, counts = fast_encoding([tokens("ababab" + "c"), tokens("abc")], [], 5, 2, 8, True)
    assert found == [Merge(("a",), ("b",), 4), Merge(("a", "b"), ("c",), 2)]
    assert counts == {("a", "b", "c"): 2}


def test_nothing_merges_across_sessions_or_borders():
    assert fast_encoding([tokens("a"), tokens("b")] * 9 + [tokens("a.b")] * 9, [], 5, 1, 8, True)[0] == []


def test_what_is_a_workflow_already_is_not_made_again():
    """Collapsing gives a, a b, b, which would read as the list a a b b."""
    lists, sessions = [list("aabb"), list("ab")], [tokens("aababb")] * 2
    expected = [Merge(("a",), ("a", "b"), 2)], [0, 4], {("a", "a", "b"): 2, ("b",): 2}
    assert fast_encoding(sessions, lists, 5, 1, 8, True) == expected
    assert plain_encoding(sessions, lists, 5, 1, 8, True) == expected


def test_a_link_between_two_merges_is_lost_once():
    assert fast_encoding([tokens("abab"), tokens("ba")], [], 5, 1, 2, True)[0] == [
        Merge(("a",), ("b",), 2),
        Merge(("b",), ("a",), 1),
    ]


def test_lists_come_first():
    encoder = PairEncoder(
        list(make_blocks([np.array([0, 1, 2], dtype=np.int32)])),
        [(), ("a",), ("b",)],
        threshold=1,
        max_length=8,
        collapse=True,
    )
    list(encoder.learn(1))
    with pytest.raises(RuntimeError, match="before"):
        encoder.merge_list([1, 2])


@pytest.mark.parametrize(
    ("min_count", "share", "pairs", "expected"),
    [(3, 0.0, 1000, 3), (3, 0.005, 1000, 5), (3, 0.0051, 1000, 6), (1, 0.07, 100, 7), (10, 0.07, 100, 10)],
)
def test_least_count_is_exact(min_count, share, pairs, expected):
    assert least_count(min_count, share, pairs) == expected, "0.07 * 100 is 7.000000000000001 in floating point"


def test_blocks_hold_whole_sequences_between_borders():
    pieces = [np.array([0, 1, 2, 0, 0, 3]), np.array([0, 4]), np.array([0, 0, 0]), np.array([0, 5])]
    assert [block.tolist() for block in make_blocks(pieces, 7)] == [[0, 1, 2, 0, 3, 0, 4, 0], [0, 5, 0]]
    assert list(make_blocks([], 7)) == []
