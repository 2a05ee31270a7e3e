from data_processing.documents_html import parse_html


def _lines(text: str) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in parse_html(text).blocks]


def test_only_the_main_part_is_read() -> None:
    page = (
        "<html><head><title>Manual - Walls</title><style>p{}</style></head><body><nav><a href=a>Home</a></nav>"
        "<p>Cookies!</p><main><h1>Walls<a class=headerlink href=#w>¶</a></h1><p>Draws a <b>wall</b> &amp; more.<br>Next"
        "<script>var x = '<p>';</script></p><pre>code()</pre><ul><li>One<li>Two <a href=b>link</a></ul>"
        "<div class='toc nav'>Contents</div></main><footer>(c)</footer></body></html>"
    )
    parsed = parse_html(page)
    assert [(b.level, b.text) for b in parsed.blocks] == [
        (1, "Walls"), (0, "Draws a wall & more. Next"), (0, "- One"), (0, "- Two link"),
    ]  # fmt: skip
    assert parsed.dropped["code"] == 1
    assert parsed.dropped["navigation"] == 4  # nav, headerlink, toc, footer


def test_a_page_without_main_or_heading_goes_by_its_title() -> None:
    page = (
        "<title>Slabs</title><table><tr><th>Name<th>Meaning</tr><tr><td><p>H</p></td><td>height</td></tr></table><p>End"
    )
    assert _lines(page) == [(1, "Slabs"), (0, "Name | Meaning"), (0, "H | height"), (0, "End")]


def test_link_lists_are_navigation_and_broken_markup_is_read() -> None:
    parsed = parse_html("<ul><li><a href=a>Walls</a></li></ul></b></div><p>Text <i>goes on</p><h2>Next</h2>")
    assert [(b.level, b.text) for b in parsed.blocks] == [(0, "Text goes on"), (2, "Next")]
    assert parsed.dropped["navigation"] == 1
