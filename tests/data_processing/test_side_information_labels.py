from data_processing.documents import Chunk
from data_processing.side_information_index import Found
from data_processing.side_information_labels import Labeller, prose, summaries
from tests.data_processing.side_information_fakes import WordEmbedder

LABELS = {"Create": ["new", "tool"], "Update": ["edit"], "Convert": ["convert to"]}


def test_words_decide_first_or_last() -> None:
    first = Labeller(LABELS, WordEmbedder(), last=False)
    assert [first.by_words(t) for t in ("New Edit Mode", "edits new walls", "ConvertTo Group", "Newest")] == [
        "Create", "Update", "Convert", None,
    ]  # fmt: skip
    last = Labeller({"Wall": [], "Curtain Wall": [], "Style": []}, WordEmbedder(), last=True)
    assert [last.by_words(t) for t in ("Edit Curtain Walls", "Wall Style", "Style of Wall")] == [
        "Curtain Wall", "Style", "Wall",
    ]  # fmt: skip


def test_the_rest_of_the_item_comes_after_the_name_and_embedding_last() -> None:
    labeller = Labeller(LABELS, WordEmbedder(), last=False)
    items = ["Tool: Edit Wall (3)", "Tool: Wall (3)", "Menu: convert (4)", "Menu: Help (5)"]
    names = ["Edit Wall", "Wall", "convert", "Help"]
    assert labeller.give(items, names, [None, None, None, "edit"]) == ["Update", "Create", "Convert", None]


def test_prose_is_whole_sentences() -> None:
    text = (
        "Description:\nFunction Abs returns the value without sign. Too short.\nh | HANDLE | The handle of this wall.\n"
        "- Makes a single copy of an object\n(see the other page for more)\n"
        "壁を二点の間に作成するコマンドです。\nA list of these many:"
    )
    assert prose(text) == [
        "Returns the value without sign.", "Makes a single copy of an object.", "壁を二点の間に作成するコマンドです。",
    ]  # fmt: skip


def test_the_first_sentence_under_the_command_s_name_wins_over_likeness() -> None:
    roof = Chunk("r.md", ("CreateRoof",), "Makes a roof over the building. Some other words about this thing here.")
    light = Chunk("s.md", ("CreateSkylight",), "Create a window which is in the roof.")
    found = [[Found(light, 0.6), Found(roof, 0.3)]]
    [(summary, sources)] = summaries(["Create Roof"], found, WordEmbedder(), 0.65)
    assert summary == "Makes a roof over the building."
    assert [one.chunk for one in sources] == [roof]


def test_a_summary_is_in_the_script_of_the_name_and_short() -> None:
    long = " ".join(f"A wall is a wall that holds wall number {n} of walls." for n in range(20))
    chunk = Chunk("w.md", ("Wall",), f"壁を二点の間に作成するコマンドです。\n{long}")
    [(summary, _)] = summaries(["Wall"], [[Found(chunk, 0.9)]], WordEmbedder(), 0.3)
    assert summary is not None
    assert summary.isascii()
    assert len(summary) <= 400
    assert summary.count(".") == 3
