"""Files and folders whose names are not UTF-8, as archives made on Windows unpack them."""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask, draw

from weibotag.core.file_names import find_name, is_address, name_as_text, path_of
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource

GBK = os.fsdecode("照片".encode("gbk"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")


def test_a_name_is_text_and_comes_back() -> None:
    text = name_as_text(f"{GBK}/照片.png")
    assert text.encode().decode() == text
    assert str(path_of(text)) == f"{GBK}/照片.png"
    assert name_as_text("照片.png") == "照片.png"


def test_a_picture_is_found_by_its_name_in_gb18030(tmp_path: Path) -> None:
    (tmp_path / f"{GBK}.png").touch()
    assert path_of(find_name(str(tmp_path), "照片.png")) == tmp_path / f"{GBK}.png"
    (tmp_path / "照片.png").touch()
    assert path_of(find_name(str(tmp_path), "照片.png")) == tmp_path / "照片.png"
    assert find_name(str(tmp_path), "无.png") == str(tmp_path / "无.png")
    assert find_name(str(tmp_path), "无\0.png") == f"{tmp_path}/无\0.png"


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ("图/a b.png", "图\\a b.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("caf\u00e9/x.png", "cafe\u0301\\x.png"),
        ("图/a%20b.png", "图/a%20b.png"),
        ("a\\b.png", "a\\b.png"),
        ("图/a b.png", "file://{folder}/%E5%9B%BE/a%20b.png"),
        ("图/a b.png", "FILE://localhost{folder}/图/a%20b.png"),
    ],
)
def test_a_picture_is_found_as_other_systems_name_it(tmp_path: Path, there: str, named: str) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    assert find_name(str(tmp_path), named.format(folder=tmp_path)) == str(tmp_path / there)
    assert not is_address(named)
    assert is_address("https://a.example/b.png")


@pytest.mark.parametrize("name", ["posts.csv", f"{GBK}.jsonl", f"{GBK}.parquet"])
def test_posts_pictures_and_outputs_may_have_such_names(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    place = folder / GBK
    place.mkdir()
    draw(place / f"{GBK}.png", "SALE")
    if name.endswith("parquet"):
        with (place / name).open("wb") as file:
            pq.write_table(pa.table({"post_id": ["1"], "text": ["蛋糕"], "images": [["照片.png"]]}), file)
    else:
        text = (
            '{"post_id": "1", "text": "蛋糕", "images": "照片.png"}\n'
            if name.endswith("jsonl")
            else "post_id,text,images\n1,蛋糕,照片.png\n"
        )
        (place / name).write_bytes(text.encode("gb18030"))
    out = folder / f"{GBK}.csv"
    done = ask("tag", str(place / name), "-t", "tree.csv", "-o", str(out), "-q", "--workers", "0")
    assert done.exit_code == 0, done.output
    # A picture that was not found would be in the column `error`.
    assert out.read_text("utf-8-sig").splitlines()[1].endswith(",rules,cake:text:蛋糕,")
    for table in read_posts(PostsSource(str(place / name)), Rejects()):
        assert path_of(table["folder"][0].as_py()) == place
    # Whoever writes the log to a file can.
    assert caplog.text.encode().decode() == caplog.text
