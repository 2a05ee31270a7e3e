from data_processing.documents_rst import parse_rst


def _lines(text: str) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in parse_rst(text).blocks]


def test_headings_take_their_level_from_the_order_of_styles() -> None:
    text = "=====\nTitle\n=====\n\nPart\n----\n\nText here.\n\nSub\n~~~\n\nNext\n----\n"
    assert _lines(text) == [(1, "Title"), (2, "Part"), (0, "Text here."), (3, "Sub"), (2, "Next")]


def test_directives_code_and_comments() -> None:
    text = (
        ":orphan:\n\n.. _label:\n\n.. a comment\n   of two lines\n\n.. Note:: Mind the gap.\n\n   Keep it open.\n\n"
        ".. figure:: a.png\n   :alt: picture\n\n   Caption.\n\n"
        ".. code-block:: bash\n\n    make test\n\nRun this::\n\n    make\n\n"
        ".. toctree::\n   :maxdepth: 1\n\n   walls\n\n.. container:: box\n\n   Inside.\n\n.. strange::\n\n   lost\n"
    )
    parsed = parse_rst(text)
    assert [b.text for b in parsed.blocks] == ["Mind the gap.", "Keep it open.", "Run this:", "Inside."]
    assert parsed.dropped == {"image": 1, "code": 2, "navigation": 1, "directive strange": 1}


def test_inline_marks_and_roles() -> None:
    text = (
        "Press :kbd:`Shift` in :menuselection:`Edit --> Copy`, "
        "see :doc:`the walls <../walls>`, ``vs.Wall_`` and **bold**.\n\n"
        "- :doc:`../walls`\n- `Home <https://example.org>`_\n- **Height**: the height of |name| walls.\n"
    )
    parsed = parse_rst(text)
    assert [b.text for b in parsed.blocks] == [
        "Press Shift in Edit > Copy, see the walls, vs.Wall_ and bold.",
        "- Height: the height of walls.",
    ]
    assert parsed.dropped["navigation"] == 2


def test_tables_read_as_rows() -> None:
    simple = "=====  =======\nName   Meaning\n=====  =======\nH      height of it\n=====  =======\n\nAfter.\n"
    grid = "+---+-----+\n| H | top |\n+===+=====+\n| W | side |\n+---+-----+\n"
    csv = '.. csv-table::\n   :header: "A"\n\n   "one, two", three\n'
    rows = [text for _, text in _lines(simple) + _lines(grid) + _lines(csv)]
    assert rows[-4:] == ["After.", "H | top", "W | side", "one, two | three"]
    assert "H | height of it" in rows
