"""Conditions on posts (`--where`, `--valid`): one scalar expression over the columns of one row, in DuckDB's language.

DuckDB parses them, and its tree is held to what is known here: nothing that looks at other rows, nothing whose result is
not bounded by what it was made of. What it may take is bounded, too, whatever it says.
"""

import json
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Timer
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from weibotag.core.errors import RequestError

# DuckDB's parser takes time that grows with the square of brackets that are not closed, and nothing interrupts it.
LONGEST, BRACKETS, DEEPEST = 100_000, 1_000, 200
# What the rows of one call may take: seconds, and bytes beyond those that the process has. Nothing interrupts a regular
# expression on a vector of rows: so rows come some bytes at a time, and it is bounded, with its repetitions written out.
SECONDS, MEMORY, AT_ONCE, PATTERN = 60.0, 1_000_000_000, 16 << 20, 10_000
KINDS = re.compile("BETWEEN|CASE|CAST|COLLATE|COLUMN_REF|COMPARISON|CONJUNCTION|CONSTANT|FUNCTION|OPERATOR|TYPE")
TYPES = re.compile(
    r"u?(tiny|small|big|huge)?int(eger)?|u?int\d+|bool(ean)?|float\d?|real|double|decimal|numeric|varchar|text|string|b?p?char"
    r"|date|time|timestamp.*|datetime|interval|uuid|json|list|blob",
    re.IGNORECASE,
)
# Replacements of one character make no text longer, however often they are nested.
REPLACE = "replace"
# Operators, text, lists and JSON, numbers, times.
NAMES = """
+ - * / // % ^ ** & | ~ << >> @ || ~~ !~~ ~~* !~~* ~~~ ^@ -> ->> <@ @> && ! lower upper lcase ucase trim ltrim rtrim
length len strlen char_length character_length substring substr left right contains starts_with ends_with prefix suffix
instr strpos position like_escape not_like_escape ilike_escape not_ilike_escape regexp_matches regexp_full_match
regexp_extract concat reverse nfc_normalize strip_accents ascii unicode ord chr md5 sha256 hash translate split
string_split str_split string_to_array split_part replace list_contains list_has array_contains array_has list_has_any
array_has_any list_has_all array_has_all list_position list_indexof array_position array_indexof array_length
cardinality list_value array_extract list_extract list_element array_slice list_slice list_distinct list_unique
list_sort list_min list_max list_sum list_avg list_count struct_extract struct_pack row element_at map_contains
json_extract json_extract_string json_valid json_array_length json_contains json_type json_exists abs ceil ceiling floor
round trunc sign sqrt cbrt exp ln log log10 log2 pow power mod greatest least isnan isinf isfinite even gcd lcm xor
bit_count nullif ifnull if coalesce year month day hour minute second quarter week weekday dayofweek isodow dayofyear
weekofyear dayname monthname last_day epoch epoch_ms epoch_us date_part datepart date_trunc datetrunc date_diff datediff
date_sub datesub age strptime try_strptime strftime make_date make_time make_timestamp to_timestamp today now
current_date current_timestamp get_current_timestamp timezone to_years to_months to_weeks to_days to_hours to_minutes
to_seconds
"""
FUNCTIONS = frozenset(NAMES.split())
KNOWN = (
    "expected one condition on the columns of one row: comparisons, AND, OR, NOT, IN, LIKE, CASE, casts and plain functions"
)
Settings = dict[str, str | bool | int | float | list[str]]
SETTINGS: Settings = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "threads": "1",
    "memory_limit": f"{MEMORY}B",
    "temp_directory": "",
    "max_expression_depth": str(DEEPEST),
}


def matches(table: pa.Table, expression: str) -> np.ndarray:
    """Return a bool per row: where a condition on the table's columns is true (null counts as false).

    Raises RequestError for an expression that is no such condition, does not fit the columns, or takes too long.
    """
    import duckdb

    check_condition(expression)
    names = [name.lower() for name in table.column_names]
    twins = [name for name in table.column_names if names.count(name.lower()) > 1 and name.lower() in expression.lower()]
    if twins:
        raise RequestError(f"expression {_short(expression)}: columns {', '.join(twins)} differ in case alone; rename one")
    # Longer than every name, so that it hides none of them.
    place = "#" * (max(map(len, table.column_names), default=0) + 1)
    late = time.monotonic() + SECONDS
    rows: list[np.ndarray] = []
    with _bounded_memory(), duckdb.connect(config=SETTINGS) as database:
        watch = Timer(SECONDS, database.interrupt)
        watch.daemon = True
        watch.start()
        try:
            for piece in _cut(table.append_column(place, pa.array(np.arange(len(table))))):
                database.register("posts", piece)
                found = database.execute(f'SELECT "{place}" FROM posts WHERE (\n{expression}\n)').fetchnumpy()
                rows.append(found[place])
                if time.monotonic() > late:
                    raise duckdb.InterruptException
        except (duckdb.Error, MemoryError) as error:
            slow = isinstance(error, duckdb.InterruptException)
            reason = f"takes over {SECONDS:g} s for {len(table):,} rows" if slow else _first_line(error)
            columns = ", ".join(table.column_names)
            raise RequestError(f"expression {_short(expression)}: {reason}; columns: {_shorten(columns)}") from error
        finally:
            watch.cancel()
    return np.isin(np.arange(len(table)), np.concatenate(rows))


def _cut(table: pa.Table) -> Iterator[pa.Table]:
    """Give the rows of a table in pieces of at most `AT_ONCE` bytes, or of one row."""
    if len(table) < 2 or table.nbytes <= AT_ONCE:
        yield table
    else:
        yield from _cut(table.slice(0, len(table) // 2))
        yield from _cut(table.slice(len(table) // 2))


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Have the system refuse this process more than `MEMORY` (Linux): DuckDB's own limit counts no texts and lists."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = psutil.Process().memory_info().data + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *(one for one in (soft, hard) if one >= 0)]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@lru_cache(maxsize=64)
def check_condition(expression: str) -> None:
    """Raise RequestError for an expression that is not one condition on the columns of one row."""
    if len(expression) > LONGEST:
        raise RequestError(f"expression {_short(expression)}: over {LONGEST:,} characters; shorten it")
    if len(re.findall(r"[(\[{]", expression)) > BRACKETS:
        raise RequestError(f"expression {_short(expression)}: over {BRACKETS:,} brackets; shorten it")
    found = _parse(expression)
    plain = _parse("true")
    condition = found.pop("where_clause", None)
    plain.pop("where_clause")
    if found != plain or condition is None:
        raise RequestError(f"expression {_short(expression)}: {KNOWN}")
    for node in _walk(condition):
        fault = _find_fault(node)
        if fault:
            raise RequestError(f"expression {_short(expression)}: {fault}; {KNOWN}")


def _parse(expression: str) -> dict[str, Any]:
    """Return the statement that a condition makes part of, as DuckDB's parser reads it."""
    import duckdb

    statement = f"SELECT 1 WHERE (\n{expression}\n)"
    with duckdb.connect(config=SETTINGS) as database:
        try:
            answer = database.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchone()
            tree = json.loads(answer[0]) if answer else {}
        except (duckdb.Error, UnicodeEncodeError, RecursionError, ValueError) as error:
            raise RequestError(f"expression {_short(expression)}: {_first_line(error)}; {KNOWN}") from error
    if tree.get("error") or len(tree["statements"]) != 1:
        said = tree.get("error_message") or "more than one statement"
        raise RequestError(f"expression {_short(expression)}: {_first_line(said)}; {KNOWN}")
    node: dict[str, Any] = tree["statements"][0]["node"]
    return node


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Give every node of a tree that is an expression or a type."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "class" in one:
                yield one
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _find_fault(node: dict[str, Any]) -> str | None:
    """Return what is wrong with one node of a condition, None where nothing is."""
    kind = str(node["class"])
    if not KINDS.fullmatch(kind) or node.get("type") == "GROUPING_FUNCTION":
        other = {"SUBQUERY": "a subquery looks", "WINDOW": "a window function looks"}.get(kind)
        return f"{other} at other rows" if other else f"{kind.lower().replace('_', ' ')} is not understood"
    if kind == "TYPE" or "cast_type" in node:
        name = str(node.get("type_name") or node["cast_type"]["id"])
        return None if TYPES.fullmatch(name) else f"no cast to {_shorten(name)}"
    if kind != "FUNCTION":
        return None
    name = str(node["function_name"]).lower()
    if name not in FUNCTIONS or node.get("filter") or node.get("distinct"):
        return f"no function {_shorten(name)}"
    if name == REPLACE and not ((given := _argument(node, -1)) is not None and len(given) <= 1):
        return "replace puts in one character at most"
    if name.startswith("regexp_") and not ((given := _argument(node, 1)) is not None and _measure(given) <= PATTERN):
        return f"a regular expression is one text of {PATTERN:,} characters at most, what is repeated counted so often"
    return None


def _argument(node: dict[str, Any], number: int) -> str | None:
    """Return the constant that an argument of a function is, as text; None where it is no constant."""
    given = node.get("arguments") or node.get("children") or []
    if len(given) <= number:
        return None
    one = given[number].get("expression", given[number]) if given else {}
    literal = one.get("literal", one.get("value"))
    text = literal.get("text", literal.get("value")) if isinstance(literal, dict) else None
    return str("" if text is None else text) if one.get("class") == "CONSTANT" else None


def _measure(pattern: str) -> int:
    """Return how long a regular expression may be with its repetitions written out."""
    counts = (max(map(int, re.findall(r"\d{1,6}", one)), default=1) for one in re.findall(r"\{[\d,]+\}", pattern))
    return len(pattern) * math.prod(max(1, count) for count in counts)


def _first_line(fault: Exception | str) -> str:
    return _shorten((str(fault).strip() or type(fault).__name__).splitlines()[0])


def _short(expression: str) -> str:
    return repr(_shorten(expression, 200))


def _shorten(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
