import logging
import os
import random
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.runtime import findings_store, store_parts
from weibotag.runtime.findings_store import Store, default_root

IDS = st.lists(st.sampled_from([f"{n:02}é'\"#1" for n in range(30)]), max_size=40)
OFTEN = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ocr(ids: list[str]) -> pa.Table:
    lines = [[{"text": f"口红 {id}", "score": 0.5, "box": [1.0, 2.0]}] if n % 3 else None for n, id in enumerate(ids)]
    errors = [None if n % 3 else f"no picture {id}" for n, id in enumerate(ids)]
    return schema.cast(pa.table({"media_id": pa.array(ids, pa.string()), "ocr_lines": lines, "ocr_error": errors}), "ocr")


def found(table: pa.Table, ids: list[str]) -> list[dict]:
    """The rows of `table` that a read of `ids` should give: the order of the ids, each once."""
    rows = {row["media_id"]: row for row in reversed(table.to_pylist())}
    return [rows[id] for id in dict.fromkeys(ids) if id in rows]


def ids_of(table: pa.Table) -> list[str]:
    return table["media_id"].to_pylist()


@OFTEN
@given(writes=st.lists(IDS, max_size=4), asked=IDS)
def test_what_is_written_is_read_once_in_the_order_asked_and_the_rest_is_missing(
    tmp_path_factory: pytest.TempPathFactory, writes: list[list[str]], asked: list[str]
) -> None:
    kept = Store(tmp_path_factory.mktemp("store"))
    known: set[str] = set()
    for ids in writes:
        kept.write("faces", "f1", pa.table({"media_id": pa.array(ids, pa.string())}))
        known.update(ids)
    table = kept.read("faces", "f1", pa.array(asked, pa.string()))
    assert table.schema.equals(schema.arrow_schema("faces"))
    assert ids_of(table) == [id for id in dict.fromkeys(asked) if id in known]
    missing = kept.missing("faces", "f1", pa.array(asked, pa.string()))
    assert missing.to_pylist() == [id for id in dict.fromkeys(asked) if id not in known]


@OFTEN
@given(ids=st.lists(st.integers(0, 5000), unique=True, min_size=1, max_size=60), order=st.randoms())
def test_rows_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], order: random.Random
) -> None:
    kept = Store(tmp_path_factory.mktemp("store"))
    names = [f"{n:064x}" for n in ids]
    table = ocr(names)
    half = len(ids) // 2
    kept.write("ocr", "abc", table[:half])
    kept.write("ocr", "abc", table[half:])
    kept.write("ocr", "abc", table[: half + 1])
    order.shuffle(names)
    assert kept.read("ocr", "abc", pa.array(names)).to_pylist() == found(table, names)


def test_rows_are_found_across_row_groups(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    ids = [f"id{n}" for n in range(3 * store_parts.ROW_GROUP + 7)]
    table = ocr(ids)
    kept.write("ocr", "abc", table)
    asked = [ids[n] for n in (3 * store_parts.ROW_GROUP + 6, 0, 2 * store_parts.ROW_GROUP, store_parts.ROW_GROUP - 1, 5)]
    assert kept.read("ocr", "abc", pa.array(asked)).to_pylist() == found(table, asked)
    assert kept.read("ocr", "abc", pa.array(ids)).equals(table)


def test_half_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    values = [np.array([6.1e-5, -65504, np.inf, 0.1], np.float16), None, np.array([], np.float16)]
    vectors = pa.array(values, pa.list_(pa.float16()))
    kept.write("embed", "v1", pa.table({"media_id": ["b", "a", "c"], "embed_vector": vectors}))
    table = kept.read("embed", "v1", pa.array(["a", "b", "c"]))
    assert table["embed_vector"].type == pa.list_(pa.float16())
    assert table["embed_vector"].to_pylist() == [vectors[1].as_py(), vectors[0].as_py(), []]
    assert table["embed_error"].null_count == 3


def test_frames_of_a_file_come_together_in_order(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    for frames in ([("g", 2), ("j", 0), ("g", 0)], [("g", 1), ("g", 0), ("g", 2)]):
        files, numbers = zip(*frames, strict=True)
        media = [f"{file}#{frame}" for file, frame in frames]
        kept.write("media", "m", pa.table({"file_id": files, "frame": numbers, "media_id": media}))
    table = kept.read("media", "m", pa.array(["x", "g", "j"]))
    assert ids_of(table) == ["g#0", "g#1", "g#2", "j#0"]
    assert kept.missing("media", "m", pa.array(["x", "g", "j"])).to_pylist() == ["x"]


def test_ids_may_be_null_chunked_or_nothing(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    kept.write("ocr", "abc", ocr(["a"]))
    ids = pa.chunked_array([pa.array(["b", None]), pa.array(["a", "b"])])
    assert kept.missing("ocr", "abc", ids).to_pylist() == ["b"]
    assert ids_of(kept.read("ocr", "abc", ids)) == ["a"]
    assert kept.missing("ocr", "abc", pa.array([], pa.string())).equals(pa.array([], pa.string()))
    assert kept.read("ocr", "abc", pa.nulls(3)).equals(schema.arrow_schema("ocr").empty_table())


def test_another_fingerprint_knows_nothing(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    kept.write("ocr", "abc", ocr(["a"]))
    assert kept.missing("ocr", "abd", pa.array(["a"])).to_pylist() == ["a"]
    assert len(kept.read("ocr", "abd", pa.array(["a"]))) == 0


def test_an_empty_table_writes_nothing(tmp_path: Path) -> None:
    Store(tmp_path).write("ocr", "abc", ocr([]))
    assert list(tmp_path.rglob("*")) == []


def test_folders_with_odd_names(tmp_path: Path) -> None:
    kept = Store(tmp_path / "a=1 [b]*?" / "库'{x}")
    kept.write("ocr", "abc", ocr(["a", "b"]))
    assert ids_of(kept.read("ocr", "abc", pa.array(["b", "c"]))) == ["b"]
    assert kept.missing("ocr", "abc", pa.array(["b", "c"])).to_pylist() == ["c"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped", "columns", "empty"])
def test_a_broken_part_is_set_aside_and_its_pictures_are_missing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Store(tmp_path)
    kept.write("ocr", "abc", ocr([f"bad{n}" for n in range(300)]))
    (part,) = (tmp_path / "ocr-abc").glob("part-*")
    kept.write("ocr", "abc", ocr(["good"]))
    content = part.read_bytes()
    if damage == "cut":
        part.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        part.write_bytes(b"x" * 500)
    elif damage == "flipped":
        # In the last column, which no join reads: only the checksum of the page can tell.
        place = content.rindex(b"\x28\xb5\x2f\xfd") + 12
        part.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
    elif damage == "empty":
        part.write_bytes(b"")
    else:
        pq.write_table(pa.table({"media_id": ["bad1"], "other": [1]}), part)
    asked = pa.array(["bad1", "good", "bad7"])
    assert ids_of(kept.read("ocr", "abc", asked)) == ["good"]
    assert kept.missing("ocr", "abc", asked).to_pylist() == ["bad1", "bad7"]
    assert part.with_name(f"{part.name}.broken").exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    kept.write("ocr", "abc", ocr(["bad1"]))
    assert ids_of(kept.read("ocr", "abc", asked)) == ["bad1", "good"]


def test_a_broken_part_is_found_by_missing_too(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    kept.write("ocr", "abc", ocr(["a"]))
    (part,) = (tmp_path / "ocr-abc").glob("part-*")
    part.write_bytes(part.read_bytes()[:-9])
    assert kept.missing("ocr", "abc", pa.array(["a"])).to_pylist() == ["a"]
    assert kept.sizes() == [("ocr", "abc", 0, 0, 0)]


def test_compaction_keeps_the_rows(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    tables = [ocr([f"{k}-{n}" for n in range(3)]) for k in range(6)]
    for table in tables:
        kept.write("ocr", "abc", table)
    whole = pa.concat_tables(tables)
    ids = ids_of(whole)
    kept.compact("ocr", "abc", small=6)
    assert kept.sizes()[0][2] == 6
    (stale := tmp_path / "ocr-abc" / ".part-1.parquet.tmp").touch()
    kept.compact("ocr", "abc", small=5)
    assert stale.exists()
    assert kept.sizes()[0][2:4] == (1, 18)
    assert kept.read("ocr", "abc", pa.array(ids)).to_pylist() == found(whole, ids)
    kept.write("ocr", "abc", ocr(["later"]))
    assert kept.missing("ocr", "abc", pa.array(["later", "2-1", "no"])).to_pylist() == ["no"]


def test_compaction_passes_over_a_broken_part(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    for k in range(3):
        kept.write("ocr", "abc", ocr([f"{k}"]))
    broken = sorted((tmp_path / "ocr-abc").glob("part-*"))[1]
    lost = pq.read_table(broken)["media_id"].to_pylist()
    broken.write_bytes(b"PAR1")
    kept.compact("ocr", "abc", small=1)
    assert kept.sizes()[0][2:4] == (1, 2)
    assert kept.missing("ocr", "abc", pa.array(["0", "1", "2"])).to_pylist() == lost


def test_compaction_is_left_to_whoever_is_at_it(tmp_path: Path) -> None:
    from filelock import FileLock

    kept = Store(tmp_path)
    for k in range(3):
        kept.write("ocr", "abc", ocr([f"{k}"]))
    with FileLock(tmp_path / "ocr-abc" / "lock"):
        kept.compact("ocr", "abc", small=1)
    assert kept.sizes()[0][2] == 3
    kept.compact("ocr", "abc", small=1)
    assert kept.sizes()[0][2] == 1


def test_a_reader_sees_every_row_while_parts_are_merged(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    first = [f"first{n}" for n in range(20)]
    for id in first:
        kept.write("ocr", "abc", ocr([id]))
    over = threading.Event()

    def churn() -> None:
        for k in range(12):
            for n in range(4):
                kept.write("ocr", "abc", ocr([f"{k}.{n}"]))
            kept.compact("ocr", "abc", small=3)
        over.set()

    writer = threading.Thread(target=churn)
    writer.start()
    looks = 0
    while not over.is_set() or not looks:
        assert ids_of(Store(tmp_path).read("ocr", "abc", pa.array(first))) == first
        assert len(kept.missing("ocr", "abc", pa.array(first))) == 0
        looks += 1
    writer.join()
    assert kept.sizes()[0][3] == 20 + 48


def test_a_part_that_was_merged_away_between_listing_and_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Store(tmp_path)
    ids = ["a", "b", "c"]
    for id in ids:
        kept.write("ocr", "abc", ocr([id]))
    taken = findings_store._take
    calls: list[int] = []

    def take_late(stage: str, names: list[str], rows: list[int]) -> pa.Table:
        if not calls:
            kept.compact("ocr", "abc", small=1)
        calls.append(len(set(names)))
        return taken(stage, names, rows)

    monkeypatch.setattr(findings_store, "_take", take_late)
    assert ids_of(kept.read("ocr", "abc", pa.array(ids))) == ids
    assert calls == [3, 1]


def test_a_store_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="--store"):
        Store(tmp_path / "file" / "store").write("ocr", "abc", ocr(["a"]))


def test_sizes_of_no_store(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").sizes() == []
    (tmp_path / "foo-bar").mkdir()
    assert Store(tmp_path).sizes() == []


def test_the_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIBOTAG_STORE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("WEIBOTAG_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root().parts[-2:] == ("weibotag", "store")


def test_who_may_only_read_spills_where_nobody_can_foresee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    places = {findings_store._choose_spill(tmp_path) for _ in range(9)}
    assert len(places) == 9 and tmp_path not in {place.parent for place in places}
