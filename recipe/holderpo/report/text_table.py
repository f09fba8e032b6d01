"""Aligned columns as plain text, for the console and for files."""

import io
import sys
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table


def text_table(rows: Sequence[Sequence[str]], justify: Literal["left", "right"] = "right") -> str:
    """Rows of equal length as lines whose columns are two spaces apart.

    Every cell stands as it was given: the terminal's width, markup and colours play no part.

    Args:
        rows: at least one; the first may be a header.
        justify: of all columns but the first, which is flush left.

    Returns:
        one line per row, without trailing spaces and without a newline at the end.
    """
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in range(len(rows[0])):
        table.add_column(justify=justify if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    console = Console(
        file=text,
        width=sys.maxsize,
        color_system=None,
        force_jupyter=False,  # in a notebook, rich would display the table instead of writing it to `file`
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
