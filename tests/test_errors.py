"""Messages that a person reads: the fix, the nearest name, one line, nothing that spoils a terminal."""

import inspect

import pytest

from recsys import errors
from recsys.errors import RecsysError, missing_column, nearest, one_line


def test_every_error_is_one_that_the_command_line_explains() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert len(kinds) == 6
    assert all(issubclass(kind, RecsysError) and issubclass(kind, ValueError) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("epoch", ["epochs", "seed"], " (did you mean 'epochs'?)"),
        ("zzz", ["epochs", "seed"], " (known: epochs, seed)"),
        ("epoch", [], ""),
    ],
)
def test_nearest_name_else_all_of_them(name: str, known: list[str], expected: str) -> None:
    assert nearest(name, iter(known)) == expected


def test_missing_column_lists_what_is_there() -> None:
    assert str(missing_column("a.csv", "item_id", ["item", "x"])) == (
        "a.csv: column 'item_id' is missing (did you mean 'item'?); columns: item, x"
    )
    assert str(missing_column("a.csv", "item_id", ["x"])) == "a.csv: column 'item_id' is missing; columns: x"


def test_names_of_columns_cannot_spoil_a_terminal() -> None:
    text = str(missing_column("a.csv", "item_id", ["Größe", "\x1b[31mred", "two\nlines"] + ["long"] * 10_000))
    assert text.isprintable() and len(text) < 1200
    assert "Größe, '\\x1b[31mred', 'two\\nlines', long" in text and text.endswith("...")


def test_one_line_of_what_another_library_says() -> None:
    assert one_line(ValueError("  two\n\tlines ")) == "two lines"
    assert one_line("x" * 500) == "x" * 200
