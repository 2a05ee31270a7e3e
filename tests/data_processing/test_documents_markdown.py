from data_processing.documents_blocks import Block
from data_processing.documents_markdown import parse_markdown


def _lines(text: str) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in parse_markdown(text).blocks]


def test_headings_of_every_kind() -> None:
    text = "Title\n=====\n\nSub title\n---\n\n### __Date()__ ###\n#NoBlank\n**Bold line**\n== Wiki ==\n"
    text += "<summary><strong>Folded</strong></summary>\n"
    assert _lines(text) == [
        (1, "Title"), (2, "Sub title"), (3, "Date()"), (1, "NoBlank"), (2, "Bold line"), (2, "Wiki"), (3, "Folded"),
    ]  # fmt: skip


def test_front_matter_code_images_and_comments_leave_and_are_counted() -> None:
    text = (
        "---\ntitle: 'Walls'\ndate: 2024\n---\n<!-- no\nno -->\n"
        "Read `this_name` of *all* __walls__ in snake_case_name.\n\n"
        "```pascal\nPROCEDURE Wall;\n```\n\n    indented code\n\n![A picture](a.png)\n\n"
        "More &amp; <b>bold</b><br>text.\n"
    )
    parsed = parse_markdown(text)
    assert parsed.blocks == [
        Block(1, "Walls"),
        Block(0, "Read this_name of all walls in snake_case_name."),
        Block(0, "More & bold text."),
    ]
    assert parsed.dropped == {"front matter": 1, "code": 2, "image": 1}


def test_a_rule_at_the_top_is_no_front_matter() -> None:
    assert _lines("---\n\nSome text here.\n\n---\n\nMore.\n") == [(0, "Some text here."), (0, "More.")]


def test_a_fence_ends_at_one_as_long() -> None:
    assert _lines("````\n```\ncode\n```\n````\nText.\n") == [(0, "Text.")]


def test_lists_and_tables_read_as_lines_and_link_lists_leave() -> None:
    text = (
        "- first\n  goes on\n- [x] see [the page](a (b).md) for what it does\n1. third\n\n"
        "* [Walls](walls.md)\n* [Roofs](roofs.md)\n\n"
        "|Name|Type|\n|---|:-:|\n|`h`|HANDLE \\| NIL|\n| [A](a.md) | [B](b.md) |\n\n"
        "> [!NOTE]\n> Keep this.\n"
    )
    parsed = parse_markdown(text)
    assert [b.text for b in parsed.blocks] == [
        "- first goes on",
        "- see the page for what it does",
        "- third",
        "Name | Type",
        "h | HANDLE | NIL",
        "Keep this.",
    ]
    assert parsed.dropped["navigation"] == 3
