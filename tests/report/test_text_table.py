"""Plain columns: every cell in full, whatever the terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.report.text_table import text_table

ROWS = [["", "one", "a long name"], ["accuracy", "1.0", "-"], ["p", "", "+2.00 -> -2.00"]]


def test_columns_by_hand() -> None:
    assert text_table(ROWS) == (
        "          one     a long name\naccuracy  1.0               -\np              +2.00 -> -2.00"
    )
    assert text_table(ROWS, justify="left") == (
        "          one  a long name\naccuracy  1.0  -\np              +2.00 -> -2.00"
    )


CELLS = st.text(st.characters(min_codepoint=33, max_codepoint=126) | st.just(" "), max_size=90).map(str.strip)


@given(st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1)))
def test_as_python_itself_would_align_them(rows: list[list[str]]) -> None:
    """No wrapping, no cropping, and no markup: [red] and :smile: are what they say."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *others = widths
    expected = [
        "  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], others, strict=True))]).rstrip()
        for row in rows
    ]
    assert text_table(rows).split("\n") == expected


@pytest.mark.parametrize("columns", ["20", "200"])
def test_the_terminal_plays_no_part(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    plain = text_table(ROWS)
    for name, value in {
        "COLUMNS": columns,
        "FORCE_COLOR": "1",
        "TTY_COMPATIBLE": "1",
        "TERM": "xterm-256color",
    }.items():
        monkeypatch.setenv(name, value)
    assert text_table(ROWS) == plain


def test_wide_characters_take_two_columns() -> None:
    assert text_table([["数学", "1"], ["math", "2"]]) == "数学  1\nmath  2"
