"""Columns of random Arrow types, values and names through `tag` and `export`: rows and values come out as they went in.

What each value should become is worked out here, in plain Python.
"""

import base64
import datetime
import decimal
import json
import math
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing import Outcome, faults, main, run

from weibotag.core.schema import TABLES, arrow_schema
from weibotag.posts.cells import change_type, simplify
from weibotag.posts.result_files import read_table

SECONDS, MEGABYTES = 120.0, 1500.0
TREE = "id,parent_id,name,aliases,keywords\nfood,,美食,,\ncake,food,蛋糕,甜品,\ncar,,汽车,,\n"
SIGNS = "=+-@＝\t\r\n'\" ;；,[]{}%:\\0159eabc你😀\u200b\ufeff"
NAMES = [
    *{column.name for table in TABLES.values() for column in table},
    "looked",
    "pictured",
    "given:looked",
    "=1",
    "a b",
    "é",
]
POSTS, TAGS = arrow_schema("posts").names, arrow_schema("tags")
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# A value for pyarrow, and what JSON has of it.
Value = tuple[Any, Any]
Make = Callable[[], Value]


def civil(days: int) -> str:
    """Return a day counted from 1970 as YYYY-MM-DD, in the years that Python's dates lack, too (400 years repeat)."""
    rounds, rest = divmod(days + 719162, 146097)
    day = datetime.date.fromordinal(rest + 1)
    year = day.year + 400 * rounds
    return f"{'-' * (year < 0)}{abs(year):04}-{day.month:02}-{day.day:02}"


def write_time(number: int, unit: str, zone: str | None) -> str:
    """Return a time, eight hours later in the zone +08:00 while the year has four digits."""
    parts = UNITS[unit]
    eastern = zone == "+08:00" and -62_135_510_400 <= number // parts < 253_402_214_400
    seconds, rest = divmod(number + (8 * 3600 * parts if eastern else 0), parts)
    day, second = divmod(seconds, 86400)
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    fraction = f".{rest:0{len(str(parts)) - 1}}" if parts > 1 else ""
    return f"{civil(day)} {clock}{fraction}{'+0800' if eastern else 'Z' if zone else ''}"


def leaf(chance: random.Random) -> tuple[pa.DataType, Make]:
    """Return a type that holds no others, and what makes its values."""

    def text() -> str:
        return "".join(chance.choice(SIGNS) for _ in range(chance.choice((0, 1, 3, 9))))

    def number(bits: int, signed: bool = True) -> int:
        whole = chance.choice((0, 1, chance.getrandbits(bits), 2**bits - 1))
        return whole - 2 ** (bits - 1) if signed else whole

    def floating(kind: type) -> Value:
        value = kind(chance.choice((0.0, -0.5, chance.gauss(0, 1e3), math.nan, math.inf, 1e-7)))
        # Arrow writes all digits of a half.
        return value, float(value if kind is np.float16 else str(value)) if math.isfinite(value) else None

    def decimals() -> Value:
        value = decimal.Decimal(chance.randint(-(10**12), 10**12)).scaleb(-2)
        return value, f"{value:.2f}"

    def duration(unit: str) -> Value:
        value = number(40)
        seconds, rest = divmod(abs(value), UNITS[unit])
        places = len(str(UNITS[unit])) - 1
        fraction = f".{rest:0{places}}".rstrip("0") if rest else ""
        return value, f"{'-' * (value < 0)}PT{seconds}{fraction}S"

    def moment(unit: str, zone: str | None) -> Value:
        value = number(chance.choice((40, 62)))
        return value, write_time(value, unit, zone)

    def clock() -> Value:
        value = chance.randrange(86400 * 10**6)
        return value, write_time(value, "us", None)[11:]

    def twice(value: Any) -> Value:
        return value, value

    def coded(count: int) -> Value:
        value = chance.randbytes(count)
        return value, base64.b64encode(value).decode()

    def unique() -> Value:
        value = chance.randbytes(16)
        return value, str(uuid.UUID(bytes=value))

    bits, unit = chance.choice((8, 16, 32, 64)), chance.choice(list(UNITS))
    zone = chance.choice((None, "UTC", "+08:00", "Mars/Phobos"))
    unit_kept = "ms" if unit == "s" else unit
    day = {8: 3, 16: 16, 32: 20, 64: 31}[bits]
    kinds: list[tuple[pa.DataType, Make]] = [
        (pa.null(), lambda: (None, None)),
        (pa.bool_(), lambda: twice(chance.random() < 0.5)),
        (getattr(pa, f"int{bits}")(), lambda: twice(number(bits))),
        (getattr(pa, f"uint{bits}")(), lambda: twice(number(bits, signed=False))),
        (pa.float16(), lambda: floating(np.float16)),
        (pa.float32(), lambda: floating(np.float32)),
        (pa.float64(), lambda: floating(float)),
        *((kind, lambda: twice(text())) for kind in (pa.string(), pa.large_string(), pa.string_view())),
        *((kind, lambda: coded(chance.randrange(9))) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
        (pa.binary(3), lambda: coded(3)),
        (pa.uuid(), unique),
        *((kind, decimals) for kind in (pa.decimal64(18, 2), pa.decimal128(20, 2), pa.decimal256(60, 2))),
        (pa.date32(), lambda: (lambda value: (value, civil(value)))(number(day))),
        (pa.time64("us"), clock),
        (pa.timestamp(unit_kept, zone), lambda: moment(unit_kept, zone)),
        (pa.duration(unit), lambda: duration(unit)),
    ]
    return chance.choice(kinds)


def draw(chance: random.Random, depth: int = 0) -> tuple[pa.DataType, Make]:
    """Return a type of up to three levels, and what makes its values, null now and then."""
    form = chance.choice(("leaf", "leaf", "list", "struct", "map", "dictionary") if depth < 2 else ("leaf",))
    if form == "leaf":
        kind, make = leaf(chance)
    elif form == "dictionary":
        kind, make = pa.dictionary(pa.int32(), pa.string()), lambda: ((text := chance.choice("a=你;"), text))
    elif form == "list":
        inner, item = draw(chance, depth + 1)
        kind = chance.choice((pa.list_, pa.large_list, pa.list_view, lambda inner: pa.list_(inner, 2)))(inner)
        size = 2 if pa.types.is_fixed_size_list(kind) else None

        def make() -> Value:
            items = [item() for _ in range(chance.randrange(4) if size is None else size)]
            return [one for one, _ in items], [one for _, one in items]
    elif form == "map":
        inner, item = draw(chance, depth + 1)
        kind = pa.map_(pa.string(), inner)

        def make() -> Value:
            items = [(f"k{at}", *item()) for at in range(chance.randrange(3))]
            return [(key, one) for key, one, _ in items], [[key, one] for key, _, one in items]
    else:
        fields = {name: draw(chance, depth + 1) for name in chance.sample(["a", "b", "tags", "=c"], chance.randint(1, 3))}
        kind = pa.struct([(name, inner) for name, (inner, _) in fields.items()])

        def make() -> Value:
            items = {name: item() for name, (_, item) in fields.items()}
            return {name: one for name, (one, _) in items.items()}, {name: one for name, (_, one) in items.items()}

    return kind, lambda: (None, None) if chance.random() < 0.15 else make()


def draw_columns(chance: random.Random, rows: int, taken: list[str]) -> tuple[dict[str, pa.Array], dict[str, list[Any]]]:
    """Return random columns, and what JSON should have of each."""
    columns: dict[str, pa.Array] = {}
    expected: dict[str, list[Any]] = {}
    names = chance.sample([name for name in NAMES if name not in taken], chance.randint(1, 8))
    while len(columns) < len(names):
        kind, make = draw(chance)
        values = [make() for _ in range(rows)]
        try:
            cells = pa.array([one for one, _ in values], kind)
            pq.write_table(pa.table({"x": cells}), pa.BufferOutputStream())
        except (pa.ArrowException, NotImplementedError, TypeError, ValueError):
            # pyarrow itself can't make it, or Parquet can't hold it.
            continue
        name = names[len(columns)]
        columns[name], expected[name] = cells, [one for _, one in values]
    return columns, expected


def is_cell(cell: str | None, value: Any) -> bool:
    """Tell whether a cell of a CSV is a value."""
    if value is None or value == []:
        return cell in (None, "", "[]")
    if isinstance(value, bool):
        return cell == str(value).lower()
    if isinstance(value, float):
        return float(cell or "nan") == value
    if isinstance(value, list) and not (cell or "").startswith("["):
        parts = (cell or "").split(";")
        return len(parts) == len(value) and all(map(is_cell, parts, value))
    return json.loads(cell or "") == value if isinstance(value, list | dict) else cell == str(value)


def write_all(cells: pa.ChunkedArray) -> str:
    """Return values as text, where what is no number is itself."""
    return str(cells.combine_chunks().to_string(window=99))


def compare(out: Path, columns: dict[str, pa.Array], expected: dict[str, list[Any]], ids: list[str]) -> list[str]:
    """Return what is wrong with an output; columns and expected values by their names in it, in order."""
    found = pa.concat_tables(read_table(out))
    if found["post_id"].to_pylist() != ids:
        return [f"rows {found['post_id'].to_pylist()[:5]} instead of {ids[:5]}"]
    if found.column_names != [*TAGS.names, *columns]:
        return [f"columns {found.column_names}"]
    wrong = []
    rows = [json.loads(line) for line in out.open(encoding="utf-8")] if out.suffix == ".jsonl" else []
    for name, cells in columns.items():
        if out.suffix == ".parquet":
            given = simplify(pa.chunked_array([cells]))
            same = write_all(change_type(found[name], given.type)) == write_all(given)
        elif out.suffix == ".jsonl":
            same = [row[name] for row in rows] == expected[name]
        else:
            floats = pa.types.is_floating(cells.type)
            pairs = zip(found[name].to_pylist(), expected[name], strict=True)
            same = all(
                is_cell(cell, value) or (floats and value is None and cell in ("nan", "inf", "-inf"))
                for cell, value in pairs
            )
        if not same:
            wrong.append(f"{cells.type} in {name!r} comes out otherwise in {out.suffix}")
    return wrong


def tag(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
    """Tag posts with random columns; one of the rows may hold text that is not UTF-8."""
    count, suffix = chance.randint(1, 6), chance.choice(("parquet", "csv", "jsonl"))
    columns, expected = draw_columns(chance, count, POSTS)
    ids = [str(number) for number in range(count)]
    broken: dict[str, pa.Array] = {}
    if bad := chance.random() < 0.2:
        cells = pa.array([b"\xd5\xd5", *[b"ok"] * (count - 1)]).view(pa.string())
        spans = pa.array(range(count + 1), pa.int32())
        broken["bad"] = chance.choice(
            (cells, pa.ListArray.from_arrays(spans, cells), pa.StructArray.from_arrays([cells], ["a"]))
        )
    texts = pa.array([chance.choice(["蛋糕", "汽车", "=1"]) for _ in ids])
    pq.write_table(pa.table({"post_id": pa.array(ids), "text": texts} | columns | broken), folder / "p.parquet")
    (folder / "t.csv").write_text(TREE, encoding="utf-8")
    out = folder / f"out.{suffix}"
    outcome = run(["tag", "p.parquet", "-t", "t.csv", "-o", out, "-q", "--store", "s"], folder, SECONDS)
    wrong = list(faults(outcome, SECONDS, MEGABYTES))
    if outcome.code == 0 and bad:
        found = pa.concat_tables(read_table(out))
        if "bad" not in found.column_names or len(found) != count - 1:
            wrong.append("the broken row is not the one that is rejected")
    elif outcome.code == 0:
        shown = {name: f"{name}_in" if name in TAGS.names else name for name in columns}
        parts = {new: columns[old] for old, new in shown.items()}
        wrong += compare(out, parts, {new: expected[old] for old, new in shown.items()}, ids)
    elif not (bad and count == 1 and outcome.code == 3):
        wrong.append(f"exit code {outcome.code}: {outcome.stderr.strip()[:200]}")
    return outcome, wrong


def export(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
    """Write a file of tags with random columns in another format."""
    count, suffix = chance.randint(1, 6), chance.choice(("parquet", "csv", "jsonl"))
    columns, expected = draw_columns(chance, count, TAGS.names)
    ids = [str(number) for number in range(count)]
    table = pa.table(
        {"post_id": pa.array(ids, pa.string()), "tags": pa.array([[]] * count, TAGS.field("tags").type)} | columns
    )
    pq.write_table(table, folder / "in.parquet")
    out = folder / f"out.{suffix}"
    outcome = run(["export", "in.parquet", "-o", out], folder, SECONDS)
    wrong = list(faults(outcome, SECONDS, MEGABYTES))
    if outcome.code:
        wrong.append(f"exit code {outcome.code}: {outcome.stderr.strip()[:200]}")
    else:
        wrong += compare(out, columns, expected, ids)
    return outcome, wrong


if __name__ == "__main__":
    main({"tag": tag, "export": export}, __doc__)
