"""Pairs collected in parts against all pairs at once."""

import random

import polars as pl
import pytest

from recsys.etl import occurrences
from recsys.etl.occurrences import Occurrences, Pairs


def table(pairs):
    return pl.DataFrame(pairs, schema={"group": pl.String, "item_id": pl.String}, orient="row")


def random_pairs(seed, groups=40, items=30, per_group=12):
    rng = random.Random(seed)
    return [(f"g{g}", f"i{rng.randrange(items)}") for g in range(groups) for _ in range(per_group)]


@pytest.mark.parametrize("cut_at", [10**6, 20])
def test_occurrences_collected_in_parts_keep_all_groups_and_few_pairs(monkeypatch, cut_at):
    monkeypatch.setattr(occurrences, "CUT_AT", cut_at)
    pairs = [*random_pairs(5), ("empty", None)]
    whole = Occurrences(keep=5)
    for start in range(0, len(pairs), 37):
        whole.add(Pairs.of(table(pairs[start : start + 37])))
    found = whole.pairs()
    assert set(found["group"]) == {g for g, _ in pairs}
    kept = found.drop_nulls()
    assert set(kept.iter_rows()) <= set(pairs)
    holders = {item: {g for g, i in pairs if i == item} for _, item in pairs if item}
    sizes = dict(kept.group_by("item_id").len().iter_rows())
    assert sizes == {item: min(5, len(groups)) for item, groups in holders.items()}
    at_once = Occurrences(keep=5)
    at_once.add(Pairs.of(table(pairs)))
    assert at_once.pairs().sort("group", "item_id").equals(found.sort("group", "item_id"))
    numbered = at_once.numbered()
    pairs_again = set(zip(numbered.groups.gather(numbered.group), numbered.items.gather(numbered.item), strict=True))
    assert pairs_again == set(kept.iter_rows())
    assert numbered.groups.is_sorted() and numbered.items.is_sorted()


def test_groups_that_are_named_keep_all_their_items():
    pairs = random_pairs(3)
    found = Occurrences(keep=1, named=["g7"])
    for start in range(0, len(pairs), 50):
        found.add(Pairs.of(table(pairs[start : start + 50])))
    kept = set(found.pairs().drop_nulls().iter_rows())
    assert {p for p in kept if p[0] == "g7"} == {p for p in pairs if p[0] == "g7"}
    assert len(kept) <= len({i for _, i in pairs}) + len({p for p in pairs if p[0] == "g7"})


def test_nothing_collected_is_an_empty_table():
    assert Occurrences(keep=1).pairs().height == 0
