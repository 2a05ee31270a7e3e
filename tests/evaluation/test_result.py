"""How a result shows itself."""

from pathlib import Path

import pytest

from recsys.evaluation import Evaluation, evaluate


@pytest.fixture(scope="module")
def evaluation(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(folders[1], folders[0], out=tmp_path_factory.mktemp("out"))


def test_table_has_every_figure(evaluation: Evaluation) -> None:
    table = evaluation.table()
    assert table.height == 10
    for row in table.to_dicts():
        figures = evaluation.figures[row["positions"]][row["model"]]
        assert row["recall@5"] == figures["recall@5"] and row["mrr"] == figures["mrr"]
        assert [row["ndcg@10_low"], row["ndcg@10_high"]] == figures["ndcg@10_interval"]
    assert evaluation.table("last")["positions"].unique().to_list() == ["last"]


def test_text_is_aligned_and_says_the_protocol(evaluation: Evaluation) -> None:
    lines = str(evaluation).splitlines()
    assert "seen items kept" in lines[0] and "newest 6 events" in lines[0] and "unknown targets" in lines[0]
    blocks = [lines[3:9], lines[11:17]]
    for block in blocks:
        assert len({len(line) for line in block}) == 1
        assert [line.split()[0] for line in block[1:]] == ["model", "popularity", "Markov-1", "Markov-2", "last"]
    figures = evaluation.figures["all"]["model"]
    low, high = figures["recall@10_interval"]
    assert f"{figures['recall@10']:.4f} [{low:.3f}, {high:.3f}]" in blocks[0][1]


def test_notebook_shows_the_same_numbers(evaluation: Evaluation) -> None:
    page = evaluation._repr_html_()
    assert page.count("<table>") == 2 and "Markov-2" in page
    assert f"{evaluation.figures['last']['model']['mrr']:.4f}" in page
