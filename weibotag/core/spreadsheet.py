"""Cells that a spreadsheet would run as a formula.

CSV files that are made for people begin with a BOM, and a cell of theirs that would be a formula has an apostrophe before
it, so that it is text (https://owasp.org/www-community/attacks/CSV_Injection). Whoever reads such a file takes it off again.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

BOM = "\ufeff"
# What begins a formula, in full width too, and what may stand before it: quotes, blanks, and what nobody sees.
SIGNS = "=+-@＝＋－＠"
BEFORE = "'\"" + "".join(map(chr, (*range(33), 0x7F, 0xA0, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x2060, 0x3000))) + BOM
QUOTES, STARTS = "['\"]*", f"[{re.escape(SIGNS)}]"
FORMULA = f"^(?:[{re.escape(BEFORE)}]*{STARTS}|{QUOTES}[\t\r\n])"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FORMULA = re.compile(FORMULA)


def is_formula(text: str) -> bool:
    """Tell whether a spreadsheet may run a cell; numbers are none."""
    return _FORMULA.match(text) is not None and NUMBER.fullmatch(text) is None


def guard(text: str) -> str:
    """Return a cell as it stands in a file for people."""
    return f"'{text}" if is_formula(text) else text


def unguard(text: str) -> str:
    """Return the cell that `guard` wrote so."""
    return text[1:] if text.startswith("'") and is_formula(text[1:]) else text


def guard_row(cells: Iterable[object]) -> list[object]:
    """Return the cells of a row, those that are text guarded."""
    return [guard(cell) if isinstance(cell, str) else cell for cell in cells]


def percent(sign: str) -> str:
    """Return a sign as %XX, a byte of UTF-8 each."""
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def may_run(texts: "pa.Array | pa.ChunkedArray") -> bool:
    """Tell whether any of the texts begins as a formula does."""
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring_regex(texts, FORMULA)).as_py())
