"""Files as tools write them that collect posts: columns by their names, pictures by theirs."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import ask, draw
from hypothesis import given
from hypothesis import strategies as st
from reading import read, write

from weibotag.core.errors import RequestError
from weibotag.posts.adapters import GIVEN, USUAL, find_adapter, find_pictures, read_adapters
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource, describe_input

CRAWLED = "id,bid,正文,头条文章url,原始图片url,视频url,完整日期,是否原创,源微博正文"
OWN = '[mine]\nhas = ["编号", "话"]\ncolumns.post_id = ["编号"]\ncolumns.text = ["话"]\n'


def test_each_adapter_is_told_from_the_others_and_names_columns_of_ours() -> None:
    adapters = read_adapters()
    assert {"weibo-crawler", "weiboSpider", "weibo-search", "MediaCrawler-xhs", "twitter-web-exporter"} <= set(adapters)
    for name, adapter in adapters.items():
        assert set(adapter["columns"]) <= set(GIVEN)
        assert {"post_id", "text"} <= set(adapter["columns"]) or adapter["left_out"]
        found = find_adapter([*adapter["has"], "content"] if name == USUAL else adapter["has"], None)
        assert found is not None
        assert found[0] == name


def test_a_crawlers_folder_is_tagged_as_it_is(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = folder / "weibo" / "某人"
    (place / "img" / "原创微博图片").mkdir(parents=True)
    for name in ("20260313T_11.png", "20260313T_22_2.png", "20260313T_22_10.png", "20260313T_122.png"):
        draw(place / "img" / "原创微博图片" / name, "CAKE")
    rows = "11\t,M1,今天,,https://x.example/a.jpg,,2026,True\n22\t,M2,转,,无,,2026,False,今天的蛋糕\n33\t,M3,好,,无,,2026,True\n"
    write(place / "1.csv", f"{CRAWLED}\n{rows}")
    posts = read(place / "1.csv")
    assert posts["post_id"].to_pylist() == ["11", "22", "33"]
    assert posts["text"].to_pylist() == ["今天", "转\n今天的蛋糕", "好"]
    names = [[Path(path).name for path in paths] for paths in posts["images"].to_pylist()]
    assert names == [["20260313T_11.png"], ["20260313T_22_2.png", "20260313T_22_10.png"], []]
    done = ask("tag", "weibo", "-t", "tree.csv", "-o", "out.parquet", "--words-only")
    assert done.exit_code == 0, done.output
    assert "weibo: columns as weibo-crawler calls them (post_id=id, text=正文+源微博正文" in caplog.text
    assert "pictures of 3 posts found by their names" in caplog.text
    assert pq.read_table(folder / "out.parquet")["error"].null_count == 3


def test_what_is_said_by_hand_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", f"{CRAWLED}\n1,B1,一,,,,2026,True,二\n")
    assert read(path, columns=(("post_id", "bid"), ("text", "正文")))["post_id"].to_pylist() == ["B1"]
    source = PostsSource(str(path), adapter="weibo-crawler", columns=(("post_id", "bid"),))
    (table,) = read_posts(source, Rejects())
    assert (table["post_id"].to_pylist(), table["text"].to_pylist()) == (["B1"], ["一\n二"])
    # A file that speaks as here does is not taken for another's.
    write(path, f"post_id,text,{CRAWLED}\n1,自己的,9,B1,一,,,,2026,True,二\n")
    assert read(path)["text"].to_pylist() == ["自己的"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("none", "has no column post_id and none of text"),
        ("weibo", "--adapter weibo: expected none, a file of adapters .*weibo-crawler"),
        ("weiboSpider", "--adapter weiboSpider: its columns are not those that there are: id, bid"),
        ("none.toml", "none.toml: no TOML file of adapters"),
        ("broken.toml", r"broken.toml: \[mine.columns.words"),
        ("empty.toml", r"--adapter .*empty.toml: its columns are not those"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "broken.toml", OWN + 'columns.words = ["x"]\n')
    write(tmp_path / "empty.toml", "")
    write(tmp_path / "p.csv", f"{CRAWLED}\n1,B1,一,,,,2026,True,二\n")
    with pytest.raises(RequestError, match=said) as caught:
        read_posts(PostsSource("p.csv", adapter=asked), Rejects())
    assert "\n" not in str(caught.value)


def test_a_file_of_the_users_and_a_pattern(tmp_path: Path) -> None:
    own, posts = write(tmp_path / "own.toml", OWN), write(tmp_path / "p.csv", "编号,话,images\na1,喂,x.jpg\nb2,哦,x.jpg\n")
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / "0.jpg").touch()
    (tmp_path / "a1" / "note.txt").touch()
    (table,) = read_posts(PostsSource(str(posts), adapter=str(own), pictures="{post_id}/*"), Rejects())
    assert table["text"].to_pylist() == ["喂", "哦"]
    assert table["images"].to_pylist() == [["a1/0.jpg"], ["x.jpg"]]
    # A run that was stopped does not go on by another adapter.
    source = PostsSource(str(posts), adapter=str(own))
    before = describe_input(source)
    write(own, OWN + "# another\n")
    assert describe_input(source) != before
    with pytest.raises(RequestError, match=r"expected \{post_id\} in it once"):
        find_pictures(tmp_path, ["*.jpg"])


@given(st.text("ab1.*+([", max_size=6), st.text("ab1", min_size=1, max_size=5))
def test_any_pattern_finds_what_it_says_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, before: str, post_id: str
) -> None:
    folder = tmp_path_factory.mktemp("p[*]")
    name = f"{before.replace('*', 'x')}_{post_id}.jpg"
    (folder / name).touch()
    found = find_pictures(folder, [f"{before}_{{post_id}}.jpg"])
    assert found in ({post_id: [name]}, {})
    assert found or set(before) & set("[")


def test_topics_of_a_crawler_are_keywords(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'id,bid,正文,原始图片url,话题\n1,M1,一,,"火锅,聚餐 "\n2,M2,二,,\n')
    assert read(path)["keywords"].to_pylist() == [["火锅", "聚餐"], None]
    assert read(path, splits=(("keywords", "锅"),))["keywords"].to_pylist()[0] == ["火", ",聚餐"]
