"""Encodings, delimiters, compressed, cut and empty files, standard input."""

import gzip
import io
import json
import logging
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_posts import MAKERS
from reading import read, rejected, write

from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.posts.rejects import Rejects


@pytest.mark.parametrize("encoding", MAKERS)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_encodings_are_found_out(tmp_path: Path, encoding: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"今天天气很好，去公园{number}" for number in range(30)]
    path = tmp_path / f"p.{kind}"
    if kind == "csv":
        content = "post_id,text\n" + "".join(f"{number},{text}\n" for number, text in enumerate(texts))
    else:
        rows = [{"post_id": str(number), "text": text} for number, text in enumerate(texts)]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(MAKERS[encoding](content))
    with caplog.at_level(logging.WARNING, "weibotag.posts.reader"):
        assert read(path)["text"].to_pylist() == texts
    said = [f"{path} is GB18030, not UTF-8: read as GB18030"] if encoding == "gb18030" else []
    assert caplog.messages == said


def test_a_few_broken_rows_do_not_change_the_encoding(tmp_path: Path) -> None:
    rows = [f"{number},今天天气很好{number}\n".encode() for number in range(50)]
    rows[7] = "7,今天".encode("gb18030") + b"\n"
    rows[9] = b"9,\xff\xfe\n"
    path = tmp_path / "p.csv"
    path.write_bytes(b"post_id,text\n" + b"".join(rows))
    assert read(path).num_rows == 48
    assert [row["line"] for row in rejected(path, tmp_path)] == ["9", "11"]


def test_the_encoding_is_found_behind_a_megabyte_of_ascii(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    plain = b"post_id,text\n1,\xe4\xbb\n" + b"".join(b"a%d,%s\n" % (number, b"x" * 1000) for number in range(1_100))
    chinese = "".join(f"b{number},今天天气很好{number}\n" for number in range(20))
    path.write_bytes(plain + chinese.encode())
    assert read(path).num_rows == 1_120
    assert len(rejected(path, tmp_path)) == 1
    path.write_bytes(plain + chinese.encode("gb18030"))
    assert read(path)["text"].to_pylist()[-1] == "今天天气很好19"


def test_a_character_cut_by_the_first_megabyte_is_no_error(tmp_path: Path) -> None:
    for shift in range(3):
        rows = "".join(f"{number},{'好' * 100}\n" for number in range(4_000))
        path = write(tmp_path / "p.csv", f"post_id,text{' ' * shift}\n{rows}")
        assert read(path).num_rows == 4_000


def test_half_a_utf16_character_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("post_id,text\n1,a\n2,".encode("utf-16") + b"\x3d\xd8" + "\n3,b\n".encode("utf-16-le") + b"x")
    assert read(path)["post_id"].to_pylist() == ["1", "3"]
    assert [row["line"] for row in rejected(path, tmp_path)] == ["3", "5"]


@pytest.mark.parametrize("sign", ["\t", ";", "|"])
def test_other_delimiters_are_found_and_said(tmp_path: Path, sign: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "p.csv", f"post_id{sign}text\n1{sign}a, b\n")
    with caplog.at_level(logging.WARNING, "weibotag.posts.reader"):
        assert read(path)["text"].to_pylist() == ["a, b"]
    assert repr(sign) in caplog.text


def test_standard_input_is_csv_or_jsonl(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in ("post_id,text\n1,你好\n", '\ufeff\n {"post_id": "1", "text": "你好"}\n'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        rejects = Rejects()
        row = read("-", rejects).to_pylist()[0]
        assert (row["post_id"], row["text"], row["folder"]) == ("1", "你好", str(Path.cwd()))
        assert rejects.count == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"PAR1\x15\x04")))
    with pytest.raises(RequestError, match="stdin is a Parquet file"):
        read("-")


def test_gzip_is_read_and_a_cut_one_is_an_error(tmp_path: Path) -> None:
    rows = "".join(f"{number},{number * 7919}\n" for number in range(9_000))
    data = gzip.compress(f"post_id,text\n{rows}".encode())
    path = tmp_path / "p.csv.gz"
    path.write_bytes(data)
    assert read(path).num_rows == 9_000
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError, match="can't be read"):
        read(path)


def test_a_broken_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", "post_id,text\n1,a\n")
    with pytest.raises(RequestError, match="not a Parquet file") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_parquet_damaged_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    ids = [str(number * 7919) for number in range(5_000)]
    pq.write_table(pa.table({"post_id": ids, "text": ids}), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[2_000:4_000] = b"\xff" * 2_000
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"can't be read|can be read"):
        read(path)


def test_empty_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.csv", "b.jsonl", "c.parquet"):
        write(tmp_path / name, "")
        with pytest.raises(RequestError, match="is empty"):
            read(tmp_path / name)
    with pytest.raises(RequestError, match="no file has posts"):
        read(tmp_path)
    write(tmp_path / "d.csv", "post_id,text\n1,a\n")
    caplog.clear()
    assert read(tmp_path).num_rows == 1
    assert sum("is empty: left out" in message for message in caplog.messages) == 3
    header = write(tmp_path / "e.csv", "post_id,text\n")
    with pytest.raises(NothingAcceptedError, match=r"e.csv: no row can be used \(0 rejected\)"):
        read(header)
