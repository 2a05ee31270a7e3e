"""The notebooks run from their first cell to the last, and are kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def outputs_of(notebook: nbformat.NotebookNode, source: str) -> str:
    """All that the one cell whose code starts with `source` shows: HTML, else text."""
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and c.source.startswith(source)]
    shown = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return "".join(data.get("text/html", data.get("text/plain", "")) for data in shown)


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["quickstart.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[] for _ in code]
    assert [cell.execution_count for cell in code] == [None for _ in code]


@pytest.mark.slow
def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    # Every cell runs, but training ends sooner: how well it learns is not looked at here.
    (settings,) = [cell for cell in notebook.cells if "training.epochs=12" in cell.source]
    settings.source = settings.source.replace("training.epochs=12", "training.epochs=2")
    # As Jupyter does: in the notebook's own folder.
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT / "notebooks")}})
    client.execute()

    assert "<td>noise</td>" in outputs_of(notebook, "settings =")
    figures = outputs_of(notebook, "evaluation =")
    assert "Recall@10" in figures
    assert "Markov-2" in figures
    assert "&lt;svg" in outputs_of(notebook, "run =")
    assert outputs_of(notebook, "show(").count("&lt;svg") == 1
    assert "<table" in outputs_of(notebook, "recsys.recommend")
    assert "most likely" in outputs_of(notebook, "examples")
    (page,) = tmp_path.glob("quickstart-*/run/report.html")
    assert "Nothing is measured yet" not in page.read_text(encoding="utf-8")
