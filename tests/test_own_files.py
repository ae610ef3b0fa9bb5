"""The door through which files of our own come back: whatever else stands there is one error in one line."""

import json
import os
from pathlib import Path
from typing import NotRequired

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from typing_extensions import TypedDict

from weibotag.core.errors import OwnFileError
from weibotag.core.own_files import (
    Origin,
    as_csr,
    check_digests,
    list_digests,
    read_json,
    read_metadata,
    read_table,
    read_tensors,
    write_tensors,
)

ORIGIN = Origin("a thing", "make it again")
SCHEMA = pa.schema([("word", pa.string()), ("score", pa.float32())])
TYPES = {"mean": ("float32", "d"), "weights": ("float32", "d+1", "t")}


class Inner(TypedDict):
    numbers: list[float]


class Thing(TypedDict):
    name: str
    inner: NotRequired[dict[str, Inner]]


def tensors() -> dict[str, np.ndarray]:
    return {"mean": np.ones(3, np.float32), "weights": np.ones((4, 2), np.float32)}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"name": 3}',
        b'{"name": "a", "inner": {"b": {"numbers": [1e999]}}}',
        b'{"name": "a", "inner": {"b": {"numbers": [NaN]}}}',
        b'{"name": "\\ud800"}',
        b"[" * 100_000,
        b"9" * 5_000,
        b"\xff\xfe",
        b'{"name": "' + b"x" * 3_000 + b'", "inner": 1}',
    ],
)
def test_json_that_is_none_of_ours_is_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(OwnFileError) as caught:
        read_json(path, Thing, ORIGIN)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and said.endswith("expected a thing: make it again")
    assert "\n" not in said and len(said) < 300 + len(str(path))


def test_json_comes_back(tmp_path: Path) -> None:
    thing = {"name": "a", "inner": {"b": {"numbers": [1.0, 2.0]}}}
    (tmp_path / "a.json").write_text(json.dumps(thing))
    assert read_json(tmp_path / "a.json", Thing, ORIGIN) == thing
    with pytest.raises(OwnFileError, match="10 at most"):
        read_json(tmp_path / "a.json", Thing, ORIGIN, most=10)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", Path("/dev/zero"), tmp_path / "nul\0"):
        with pytest.raises(OwnFileError):
            read_json(path, Thing, ORIGIN)
        with pytest.raises(OwnFileError):
            read_table(path, SCHEMA, ORIGIN)
        with pytest.raises(OwnFileError):
            read_tensors(path, TYPES, ORIGIN)


def test_tables_have_their_columns_and_whole_pages(tmp_path: Path) -> None:
    table = pa.table({"word": ["a", "b"], "score": [0.5, 1.0]}, schema=SCHEMA)
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, write_page_checksum=True)
    assert read_table(path, SCHEMA, ORIGIN) == table
    with pytest.raises(OwnFileError, match="other columns"):
        read_table(path, pa.schema([("word", pa.string())]), ORIGIN)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OwnFileError, match="no Parquet"):
        read_table(path, SCHEMA, ORIGIN)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": np.ones(3, np.float64)},
        {"mean": np.ones(4, np.float32)},
        {"mean": np.ones((3, 1), np.float32)},
        {"mean": np.array([1, 2, np.inf], np.float32)},
        {"weights": np.full((4, 2), np.nan, np.float32)},
        {"weights": np.ones((3, 2), np.float32)},
        {"more": np.ones(1, np.float32)},
    ],
)
def test_tensors_of_other_names_shapes_or_numbers_are_refused(tmp_path: Path, wrong: dict[str, np.ndarray]) -> None:
    save_file(tensors() | wrong, tmp_path / "a")
    with pytest.raises(OwnFileError):
        read_tensors(tmp_path / "a", TYPES, ORIGIN)


def test_named_sizes_agree(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", tensors())
    assert read_tensors(tmp_path / "a", TYPES, ORIGIN, {"t": 2}).keys() == TYPES.keys()
    with pytest.raises(OwnFileError, match=r"weights F32 \[4, 2\]"):
        read_tensors(tmp_path / "a", TYPES, ORIGIN, {"t": 3})


def test_what_is_said_of_tensors_carries_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_tensors(path, tensors(), ("about", {"name": "x"}))
    assert read_metadata(path, "about", Thing, ORIGIN)["name"] == "x"
    with pytest.raises(OwnFileError, match="nothing says"):
        read_metadata(path, "other", Thing, ORIGIN)
    read_tensors(path, TYPES, ORIGIN)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OwnFileError, match="other numbers"):
        read_tensors(path, TYPES, ORIGIN)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_change_of_a_file_of_tensors_is_anything_but_that_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("own") / "a"
    write_tensors(path, tensors(), ("about", {"name": "x"}))
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    try:
        read_metadata(path, "about", Thing, ORIGIN)
        read_tensors(path, TYPES, ORIGIN)
    except OwnFileError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("indices", "indptr"),
    [([0, 2], [0, 1, 2]), ([0, 1], [0, 2, 1]), ([0, -1], [0, 1, 2]), ([0], [0, 1, 2]), ([0, 1], [0, 5, -(2**31)])],
)
def test_matrices_point_inside(tmp_path: Path, indices: list[int], indptr: list[int]) -> None:
    parts = {"data": np.ones(2, np.float32), "indices": np.array(indices, np.int32), "indptr": np.array(indptr, np.int32)}
    with pytest.raises(OwnFileError):
        as_csr(parts, (2, 2), tmp_path, ORIGIN)


def test_digests_name_the_file_that_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    digests = list_digests(tmp_path)
    check_digests(tmp_path, digests, ["a"], ORIGIN)
    (tmp_path / "a").write_text("2 ")
    for name in ("a", "b"):
        with pytest.raises(OwnFileError, match=name):
            check_digests(tmp_path, digests, [name], ORIGIN)
