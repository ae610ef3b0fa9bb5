"""What values of any Arrow type become in tables without tricks of storage, in columns that must be text, in JSON and CSV.

Text, numbers, true and false are themselves. Decimals, dates and times are the text that Arrow writes for them, but beyond
the years 1 to 9999, or in a time zone that this machine does not know, the time is in UTC; durations are ISO 8601 (PT1.5S),
UUIDs as they are mostly written, other bytes base64. Lists and structs are arrays and objects, a map an array of pairs.
"""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.posts.encodings import UNDECODABLE, as_text, refuse_twins

UNITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
# What `str.strip` takes off, for a character class of Arrow's regular expressions.
BLANKS = r"\x09-\x0d\x1c-\x20\x85\pZ"
# Rewrites an array that holds no others.
Leaf = Callable[[pa.Array], pa.Array]


def simplify(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the same values without storage tricks: no dictionaries, views, nor large or fixed-size forms of lists."""
    return _each(cells, _simplify)


def as_words(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values for a column that is text or lists of it: as in JSON, but bytes are taken for UTF-8, unchecked."""
    return _each(cells, _as_words)


def as_json(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as JSON knows them: floats as the shortest double that reads back the same, null if it is no number."""
    return _each(cells, _as_json)


def as_texts(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return each value as a text; lists, objects and maps as JSON."""
    if pa.types.is_floating(cells.type):
        return cells.cast(pa.string())
    plain = as_json(cells)
    if not pa.types.is_nested(plain.type):
        return plain.cast(pa.string())
    return pa.chunked_array([pa.array(map(as_text, plain.to_pylist()), pa.string())])


def change_type(cells: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return values as another type; those that have it as they are, as pyarrow breaks lists of nulls that it casts so."""
    return cells if cells.type == kind else cells.cast(kind)


def plain_types(path: Path, fields: pa.Schema) -> dict[str, pa.DataType]:
    """Return name -> type after `simplify` of columns; raises RequestError for two of one name, and for values that can't be
    written."""
    refuse_twins(path, fields.names)
    types: dict[str, pa.DataType] = {}
    for field in fields:
        try:
            none = pa.chunked_array([pa.nulls(0, field.type)])
            types[field.name] = simplify(none).type
            as_json(none)
        except (pa.ArrowException, ValueError) as error:
            raise RequestError(
                f"{path}: column {field.name} is {field.type}, which can't be written ({str(error).splitlines()[0]}); "
                "make it text, or leave it out"
            ) from error
    return types


def find_broken(table: pa.Table) -> dict[int, str]:
    """Return why rows hold what is no value of its type, at any depth, by row: mostly text that is not UTF-8."""
    broken: dict[int, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if (reason := _judge(column)) is None:
            continue
        what = UNDECODABLE.format(encoding="UTF-8") if "UTF8" in reason else f"column {name}: {reason}"
        waiting = [np.arange(len(column))]
        while waiting:
            rows = waiting.pop()
            if _judge(column.take(pa.array(rows))) is None:
                continue
            if len(rows) == 1:
                broken.setdefault(int(rows[0]), what)
            else:
                waiting += np.array_split(rows, 2)
    return broken


def _judge(column: pa.ChunkedArray) -> str | None:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        return str(error).splitlines()[0].rpartition("Invalid: ")[2]
    return None


def _each(cells: pa.ChunkedArray, leaf: Leaf) -> pa.ChunkedArray:
    chunks = cells.chunks or [pa.nulls(0, cells.type)]
    return pa.chunked_array([_rebuild(chunk, leaf) for chunk in chunks])


def _rebuild(cells: pa.Array, leaf: Leaf) -> pa.Array:
    """Return an array with `leaf` applied to all that holds no other values; dictionaries are decoded."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        return _rebuild(cells.dictionary_decode(), leaf)
    if pa.types.is_map(kind):
        offsets, entries = list_parts(cells)
        keys, items = (_rebuild(part, leaf) for part in entries.flatten())
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, mask=cells.is_null())
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if leaf is not _simplify and len({*names}) < len(names):
            raise ValueError(f"{max(names, key=names.count)} stands in it twice")
        parts = [_rebuild(part, leaf) for part in cells.flatten()]
        return pa.StructArray.from_arrays(parts, names, mask=cells.is_null()) if names else cells
    if pa.types.is_nested(kind) and not pa.types.is_union(kind) and not pa.types.is_run_end_encoded(kind):
        ends = np.cumsum(pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False))
        offsets = pa.array(np.append(0, ends), pa.int32())
        return pa.ListArray.from_arrays(offsets, _rebuild(cells.flatten(), leaf), mask=cells.is_null())
    return leaf(cells)


def _simplify(cells: pa.Array) -> pa.Array:
    kind = cells.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return cells.cast(pa.string(), safe=False)
    return cells.cast(pa.binary()) if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) else cells


def _as_words(cells: pa.Array) -> pa.Array:
    return cells.cast(pa.string(), safe=False) if _holds_bytes(cells.type) else _write(cells, _as_words)


def _as_json(cells: pa.Array) -> pa.Array:
    if _holds_bytes(cells.type):
        return _map(cells, lambda value: b64encode(value).decode())
    if pa.types.is_floating(cells.type):
        numbers = cells.cast(pa.string()).cast(pa.float64())
        return pc.if_else(pc.is_finite(numbers), numbers, None)
    return _write(cells, _as_json)


def _write(cells: pa.Array, leaf: Leaf) -> pa.Array:
    """Return values that JSON has, or their text."""
    kind = cells.type
    if isinstance(kind, pa.BaseExtensionType):
        if isinstance(kind, pa.UuidType):
            return _map(cells.storage, lambda value: str(UUID(bytes=value)))
        storage = cells.storage.cast(pa.bool_()) if isinstance(kind, pa.Bool8Type) else cells.storage
        return _rebuild(storage, leaf)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return cells
    if pa.types.is_duration(kind):
        places = UNITS[kind.unit]
        return _map(cells.cast(pa.int64()), lambda number: _write_duration(number, places))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _write_times(cells)
    if pa.types.is_decimal(kind) or pa.types.is_time(kind):
        return cells.cast(pa.string())
    if _simplify(cells).type == pa.string():
        return _simplify(cells)
    raise ValueError("no text is known for it")


def _holds_bytes(kind: pa.DataType) -> bool:
    test = pa.types
    return bool(
        test.is_binary(kind) or test.is_large_binary(kind) or test.is_fixed_size_binary(kind) or test.is_binary_view(kind)
    )


def _map(cells: pa.Array, write: Callable[..., str]) -> pa.Array:
    return pa.array([None if value is None else write(value) for value in cells.to_pylist()], pa.string())


def _write_duration(number: int, places: int) -> str:
    """Return a number of parts of a second, of which 10 ** `places` are one, as ISO 8601."""
    seconds, parts = divmod(abs(number), 10**places)
    fraction = f".{parts:0{places}}".rstrip("0") if parts else ""
    return f"{'-' * (number < 0)}PT{seconds}{fraction}S"


def _write_times(cells: pa.Array) -> pa.Array:
    """Return dates or times as Arrow writes them where it can, else as numpy does, in UTC."""
    if pa.types.is_date(cells.type):
        cells, unit, zone, number = cells.cast(pa.date32()), "D", None, pa.int32()
    else:
        unit, zone, number = cells.type.unit, cells.type.tz, pa.int64()
    times = pc.fill_null(cells.cast(number), 0).to_numpy(zero_copy_only=False).astype(f"M8[{unit}]")
    # A day less on both sides: in a zone the year may be another one.
    ends = np.array(["0001-01-02", "9999-12-31"], "M8[D]")
    days = times.astype("M8[D]")
    far = (days < ends[0]) | (days >= ends[1])
    near = pc.if_else(pa.array(far), None, cells)
    try:
        texts = near.cast(pa.string())
    except pa.ArrowInvalid:
        texts = near.cast(pa.timestamp(unit, "UTC")).cast(pa.string())
    if not far.any():
        return texts
    # numpy writes as many digits of the fraction as the unit has; NaT is the lowest number.
    written = [f"{text.replace('T', ' ', 1)}{'Z' if zone else ''}" for text in np.datetime_as_string(times[far]).tolist()]
    places = np.arange(len(cells))
    places[far] = len(cells) + np.arange(len(written))
    whole = pa.concat_arrays([texts, pa.array(written, pa.string())]).take(pa.array(places))
    return pc.if_else(cells.is_valid(), whole, None)
