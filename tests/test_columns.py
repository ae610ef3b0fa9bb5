import re
from pathlib import Path

import pyarrow as pa
import pytest

from weibotag.core import schema

DOC = Path(__file__).parents[1] / "docs" / "columns.md"
HEADING = re.compile(r"^## `(\w+)`$")
ROW = re.compile(r"^\| `(\w+)` \| `([^`|]+)` \| `(\w+)` \| (.+) \|$")
HEADER = ("| column | type | owner | what |", "|---|---|---|---|")

Documented = dict[str, list[tuple[str, str, str, str]]]


def write_type(kind: pa.DataType) -> str:
    """The type as the page writes it: without the name of list values, which differs between versions of pyarrow."""
    return re.sub(r"list<(?:item|element): ", "list<", str(kind))


def read_page() -> Documented:
    tables: Documented = {}
    for line in DOC.read_text(encoding="utf-8").splitlines():
        if heading := HEADING.match(line):
            assert heading[1] not in tables, f"{heading[1]} has two sections"
            tables[heading[1]] = rows = []
        elif line.startswith("|") and tables and line not in HEADER:
            row = ROW.match(line)
            assert row, f"not a row of column, type, owner, what: {line}"
            rows.append((row[1], row[2], row[3], row[4]))
    return tables


def test_every_table_is_documented_and_no_other() -> None:
    assert list(read_page()) == list(schema.TABLES)


@pytest.mark.parametrize("table", schema.TABLES)
def test_columns_types_and_owners_are_those_declared(table: str) -> None:
    declared = [(column.name, write_type(column.type), column.owner) for column in schema.TABLES[table]]
    assert [row[:3] for row in read_page()[table]] == declared


@pytest.mark.parametrize("table", schema.TABLES)
def test_every_column_says_what_it_holds(table: str) -> None:
    assert all(len(what.split()) > 1 for *_, what in read_page()[table])


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (pa.list_(pa.field("item", pa.string())), "list<string>"),
        (pa.list_(pa.field("element", pa.list_(pa.float32()))), "list<list<float>>"),
        (schema.TAG, "struct<id: string, score: float>"),
        (pa.large_binary(), "large_binary"),
    ],
)
def test_a_type_is_written_the_same_in_every_version(kind: pa.DataType, written: str) -> None:
    assert write_type(kind) == written
