"""Swaps for coverage against the same search written out over Python sets."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.etl.split_coverage import CANDIDATES, COSTS, PARTNERS, Jagged, count_groups, cover


def jagged(lists):
    values = np.array([value for held in lists for value in held], dtype=np.int64)
    return Jagged.of(values, np.array([len(held) for held in lists], dtype=np.int64))


def cost(items_of, need, split):
    """What is missing, counted anew."""
    held = [set() for _ in range(3)]
    for group, items in enumerate(items_of):
        held[split[group]].update(items)
    missing = [(item, code) for item, codes in enumerate(need) for code in range(3) if codes[code]]
    return sum(int(COSTS[code]) for item, code in missing if item not in held[code])


def slowly(items_of, groups_of, need, split, order):
    """Of each missing item the first swap that pays for it, else the best that pays at all."""
    split = list(split)
    members = [[g for g in order if split[g] == code] for code in range(3)]
    for item in sorted(range(len(groups_of)), key=lambda i: (len(groups_of[i]), i)):
        for code in range(3):
            if not need[item][code] or code in {split[g] for g in groups_of[item]}:
                continue
            coming = [g for g in groups_of[item] if g in order][:CANDIDATES]
            others = members[code]
            going = [others[(item % len(others) + n) % len(others)] for n in range(min(PARTNERS, len(others)))]
            now, best, pair = cost(items_of, need, split), 0, None
            for g, h in [(g, h) for g in coming for h in going]:
                swapped = split.copy()
                swapped[g], swapped[h] = split[h], split[g]
                gain = now - cost(items_of, need, swapped)
                if best < COSTS[code] and gain > best:
                    best, pair = gain, (g, h)
            if pair:
                g, h = pair
                members[split[h]][members[split[h]].index(h)] = g
                members[split[g]][members[split[g]].index(g)] = h
                split[g], split[h] = split[h], split[g]
    return split


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_swaps_are_those_of_a_plain_search_and_never_cost(data):
    groups, items = data.draw(st.integers(3, 25)), data.draw(st.integers(1, 12))
    sets = data.draw(st.lists(st.sets(st.integers(0, items - 1)), min_size=groups, max_size=groups))
    items_of = [np.array(sorted(held), dtype=np.int64) for held in sets]
    groups_of = [np.array([g for g in range(groups) if i in sets[g]], dtype=np.int64) for i in range(items)]
    split = data.draw(st.lists(st.integers(0, 2), min_size=groups, max_size=groups))
    order = data.draw(st.permutations(range(groups)))[: data.draw(st.integers(1, groups))]
    need = np.array([[len(g) >= 2, len(g) >= 3, len(g) >= 2] for g in groups_of]) & [c in split for c in range(3)]
    counts = count_groups(jagged(groups_of), np.array(split))
    assert counts.tolist() == [[sum(split[g] == c for g in of) for c in range(3)] for of in groups_of]
    found = cover(jagged(items_of), jagged(groups_of), need, np.array(split), np.array(order)).tolist()
    assert found == slowly(items_of, groups_of, need, split, order)
    assert cost(items_of, need, found) <= cost(items_of, need, split)
    assert sorted(found) == sorted(split)  # sizes stay
    assert all(found[g] == split[g] for g in range(groups) if g not in order)


def test_no_item_at_all():
    split = np.array([0, 1, 2])
    assert cover(jagged([[]] * 3), jagged([]), np.zeros((0, 3), dtype=bool), split, np.arange(3)).tolist() == [
        0,
        1,
        2,
    ]
