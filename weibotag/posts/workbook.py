"""Workbooks (.xlsx): their sheets as lines of JSON, and tables as sheets of text in which nothing is a formula."""

import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import IO, Any

from weibotag.core.errors import RequestError

# Rows of a sheet, and bytes of all that a workbook holds unpacked.
MOST_ROWS, MOST_UNPACKED = 1 << 20, 1 << 30
# A spreadsheet keeps so many digits of a number; the others become zeros.
EXACT_DIGITS = 15
# Characters of a cell.
MOST_CHARACTERS = 32_767
# What XML can't hold, and what would be read as such: written as _x0001_.
ESCAPED = re.compile(r"_x(?![dD][89A-Fa-f])([0-9A-Fa-f]{4})_")
UNWRITABLE = re.compile(r"[\0-\x08\x0b-\x1f\ufffe\uffff\ud800-\udfff]|_(?=x[0-9A-Fa-f]{4}_)")


@dataclass(frozen=True)
class Sheet:
    """A table of a workbook or a database: its name and its columns."""

    name: str
    columns: tuple[str, ...]


@contextmanager
def _open_book(path: Path) -> Iterator[Any]:
    """Give a workbook for reading row by row; raises RequestError where there is none, or too large a one."""
    import openpyxl

    try:
        with warnings.catch_warnings(), zipfile.ZipFile(path) as packed:
            warnings.simplefilter("ignore")
            size = sum(part.file_size for part in packed.infolist())
            if size > MOST_UNPACKED:
                raise RequestError(f"{path}: {size:,} bytes unpacked; {MOST_UNPACKED:,} at most can be read: save it as CSV")
            with closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
                yield book
    except (RequestError, GeneratorExit, OSError, MemoryError):
        raise
    except Exception as error:  # openpyxl has no errors of its own for what it can't read
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise RequestError(f"{path}: no .xlsx workbook that can be read ({why}); save it again, or as CSV") from error


def _rows(sheet: Any, path: Path) -> Iterator[tuple[Any, ...]]:
    # What a sheet says of its own size may be wrong.
    sheet.reset_dimensions()
    for number, row in enumerate(sheet.iter_rows(values_only=True)):
        if number >= MOST_ROWS:
            raise RequestError(f"{path}: more than {MOST_ROWS:,} rows in a sheet; save it as CSV")
        yield row


def _cell(value: Any) -> Any:
    """Return a cell as JSON has it; a number whose last digits a spreadsheet does not keep is text with an exponent."""
    if isinstance(value, date | time | timedelta):
        return str(value)
    if isinstance(value, str):
        return ESCAPED.sub(lambda found: chr(int(found[1], 16)), value) if "_x" in value else value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e300:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**EXACT_DIGITS:
        return f"{value:.14E}"
    return value


def list_sheets(path: Path) -> list[Sheet]:
    """Return the sheets of a workbook that have a header, the first row with a cell."""
    found = []
    with _open_book(path) as book:
        for sheet in book.worksheets:
            header = next((row for row in _rows(sheet, path) if any(cell is not None for cell in row)), ())
            names = [str(cell).strip() if cell is not None else "" for cell in header]
            while names and not names[-1]:
                names.pop()
            if names:
                found.append(Sheet(sheet.title, tuple(name or f"column_{at}" for at, name in enumerate(names, 1))))
    return found


def read_rows(path: Path, sheet: Sheet) -> Iterator[tuple[int, list[Any]]]:
    """Give (line, cells) of each row below the header that has a cell; a row may have more cells than the header."""
    header = True
    with _open_book(path) as book:
        for line, row in enumerate(_rows(book[sheet.name], path), 1):
            if any(cell is not None for cell in row):
                if not header:
                    yield line, [_cell(cell) for cell in row]
                header = False


def read_sheet(path: Path, sheet: Sheet) -> Iterator[str]:
    """Give the rows of a sheet as JSON, on the lines that they stand on; lines of what is no row are empty."""
    written = 0
    for line, cells in read_rows(path, sheet):
        yield from [""] * (line - 1 - written)
        names = (*sheet.columns, *(f"column_{at}" for at in range(len(sheet.columns) + 1, len(cells) + 1)))
        row = {name: cell for name, cell in zip(names, cells, strict=False) if cell is not None}
        # The first row has all columns of the header.
        row = row if written else dict.fromkeys(sheet.columns) | row
        yield json.dumps(row, ensure_ascii=False)
        written = line


class BookWriter:
    """A workbook that rows of texts are added to; a sheet that is full is followed by another with the same header.

    `cut` counts the cells that had more characters than a workbook keeps: they end in "…".
    """

    def __init__(self, title: str, header: Sequence[str]) -> None:
        from openpyxl import Workbook

        self.book, self.title, self.header = Workbook(write_only=True), title, header
        # Nothing tells when it was made: the same rows are the same cells.
        self.book.properties.created = self.book.properties.modified = datetime(2000, 1, 1)
        self.sheet: Any = None
        self.rows = self.sheets = self.cut = 0

    def write_rows(self, rows: Iterable[Sequence[str | None]]) -> None:
        """Add rows; the first is preceded by the header."""
        for row in rows:
            if self.sheet is None or self.rows == MOST_ROWS:
                self._begin()
            self._add(row)

    def _begin(self) -> None:
        self.sheets += 1
        self.sheet = self.book.create_sheet(self.title if self.sheets == 1 else f"{self.title} {self.sheets}")
        self.sheet.freeze_panes = "A2"
        self.rows = 0
        self._add(self.header)

    def _add(self, row: Sequence[str | None]) -> None:
        from openpyxl.cell import WriteOnlyCell

        cells = []
        for text in row:
            text = UNWRITABLE.sub(lambda found: f"_x{ord(found[0]):04X}_", text or "")
            if len(text) > MOST_CHARACTERS:
                self.cut += 1
                text = f"{text[: MOST_CHARACTERS - 1]}…"
            cell = WriteOnlyCell(self.sheet, text or None)
            # Also what begins with "=" is text.
            cell.data_type = "s" if text else "n"
            cells.append(cell)
        self.sheet.append(cells)
        self.rows += 1

    def save(self, file: IO[bytes]) -> None:
        """Write the workbook."""
        if self.sheet is None:
            self._begin()
        self.book.save(file)
