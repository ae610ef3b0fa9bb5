import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weibotag.core.sealed_parquet import MARK, DamagedError, SealedParquet, write_sealed

TABLE = pa.table(
    {
        "id": [f"{number:04}" for number in range(60)],
        "vector": pa.array([[number * 1.5, number / 3] for number in range(60)], pa.list_(pa.float32())),
        "kind": pa.array(["a", None, "b"] * 20).dictionary_encode(),
    }
)


def seal(path: Path, place: str = "here", groups: int = 25) -> bytes:
    with path.open("w+b") as file:
        write_sealed(file, [TABLE[:30], TABLE[30:]], TABLE.schema, place, row_group_size=groups)
    return path.read_bytes()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "t.parquet"
    seal(path)
    return path


def test_a_sealed_file_is_parquet_for_every_reader(tmp_path: Path) -> None:
    import duckdb

    seal(tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").equals(TABLE)
    assert duckdb.sql(f"SELECT count(*), min(id) FROM '{tmp_path}/t.parquet'").fetchall() == [(60, "0000")]
    with SealedParquet(tmp_path / "t.parquet", "here") as file:
        assert file.sealed and file.schema.equals(TABLE.schema) and len(file.groups) == 4
        assert file.read().equals(TABLE)
        assert file.read([1], ["id"]).equals(TABLE[25:30].select(["id"]))


@given(st.data())
def test_no_changed_bytes_are_read(sealed: Path, data: st.DataObject) -> None:
    content = bytearray(sealed.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "zero", "insert"])):
        case "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[at:]
        case "zero":
            content[at : at + 512] = bytes(len(content[at : at + 512]))
        case _:
            content[at:at] = b"x"
    path = sealed.with_name("changed.parquet")
    path.write_bytes(content)
    try:
        with SealedParquet(path, "here") as file:
            assert file.read().equals(TABLE)
    except DamagedError as error:
        assert error.args == (path,)


def test_every_byte_of_the_seal_and_the_footer_counts(sealed: Path) -> None:
    content = sealed.read_bytes()
    start = content.rindex(MARK)
    footer = struct.unpack("<I", content[-8:-4])[0]
    assert start + len(MARK) == len(content) - 8 - footer
    path = sealed.with_name("changed.parquet")
    for at in [*range(start - 8 - 4 * 12, start), *range(start + len(MARK), len(content))]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(DamagedError), SealedParquet(path, "here"):
            pass


def test_a_file_of_another_place_is_damage(sealed: Path) -> None:
    with pytest.raises(DamagedError), SealedParquet(sealed, "there"):
        pass


def test_a_file_without_a_seal_is_read_by_its_pages(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(TABLE, path, write_page_checksum=True, use_dictionary=False, compression="none")
    with SealedParquet(path, "anywhere") as file:
        assert not file.sealed
        assert file.read().equals(TABLE)
    content = path.read_bytes()
    at = content.index(b"0031")
    path.write_bytes(content[:at] + b"9" + content[at + 1 :])
    with SealedParquet(path, "anywhere") as file, pytest.raises(DamagedError):
        file.read()


def test_what_is_gone_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), SealedParquet(tmp_path / "none.parquet", "here"):
        pass


def test_an_empty_table_is_sealed_too(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with path.open("w+b") as file:
        write_sealed(file, [], TABLE.schema, "here")
    with SealedParquet(path, "here") as opened:
        assert opened.read().equals(TABLE.schema.empty_table())
