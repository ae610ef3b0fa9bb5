import io
import math
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_svmlight_file

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.curation.keywords.feature_export import FORMATS, escape, export_features, open_clusters, open_dictionary
from weibotag.taxonomy.tree import Tag, Taxonomy

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
SCORES = st.floats(0.0009765625, 1, width=32)
POSTS = st.lists(
    st.fixed_dictionaries(
        {
            "tags": st.dictionaries(NAMES, SCORES, max_size=4),
            "keywords": st.dictionaries(NAMES, SCORES, max_size=4),
            "route": st.sampled_from(["rules", "fast", "cascade+ocr"]),
            "label": st.sampled_from([0.0, 1.0, -2.5]),
        }
    ),
    min_size=1,
    max_size=6,
)
FILES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_posts(posts: list[dict], path: Path) -> Path:
    """Write posts as `weibotag tag` does, with a column label."""
    rows = [
        {
            "post_id": post.get("post_id", f"{number}:a b|%"),
            "tags": [{"id": name, "score": score} for name, score in post["tags"].items()],
            "keywords": [{"keyword": name, "score": score, "source": "text"} for name, score in post["keywords"].items()],
            "route": post["route"],
            "label": post["label"],
        }
        for number, post in enumerate(posts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema("tags").append(pa.field("label", pa.float64()))), path)
    return path


def expect(post: dict) -> dict[tuple[str, str], float]:
    features = {("route", post["route"]): 1.0}
    features |= {("tag", name): score for name, score in post["tags"].items()}
    return features | {("keyword", name): score for name, score in post["keywords"].items()}


def read_dictionary(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def read_back(path: Path, known: list[dict]) -> list[dict[tuple[str, str], float]]:
    """Read a file of any format with a reader of its own, and name its features."""
    by_number = {row["number"]: (row["kind"], row["name"]) for row in known}
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        return [{by_number[n]: v for n, v in zip(row["features"], row["values"], strict=True)} for row in rows]
    if path.suffix == ".libsvm":
        if not path.stat().st_size:
            return []
        matrix, _ = load_svmlight_file(str(path), n_features=max(by_number, default=1), zero_based=False)
        rows = [matrix[row] for row in range(matrix.shape[0])]
        return [{by_number[i + 1]: v for i, v in zip(row.indices, row.data, strict=True)} for row in rows]
    found = []
    fields = dict(zip(dict.fromkeys(row["field"] for row in known), range(1, 100), strict=False))
    field_of = {row["number"]: fields[row["field"]] for row in known}
    by_spelling = {(row["field"], escape(row["name"])): (row["kind"], row["name"]) for row in known}
    for line in io.StringIO(path.read_text(encoding="utf-8"), newline="\n"):
        features = {}
        if path.suffix == ".libffm":
            for item in line.split()[1:]:
                field, number, value = item.split(":")
                assert field_of[int(number)] == int(field)
                features[by_number[int(number)]] = float(value)
        else:
            for namespace in line.split("|")[1:]:
                field, *items = namespace.split()
                for name, value in (item.split(":") for item in items):
                    features[by_spelling[field, name]] = float(value)
        found.append(features)
    return found


@pytest.mark.parametrize("suffix", FORMATS)
@given(posts=POSTS)
@FILES
def test_what_is_written_reads_back(tmp_path: Path, suffix: str, posts: list[dict]) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    tagged, out, dictionary = write_posts(posts, tmp_path / "t.parquet"), tmp_path / f"o{suffix}", tmp_path / "d.parquet"
    export_features(tagged, out, dictionary, label="label")
    found = read_back(out, read_dictionary(dictionary))
    assert len(found) == len(posts)
    for features, post in zip(found, posts, strict=True):
        assert features == pytest.approx(expect(post), rel=1e-6)


@given(days=st.lists(POSTS, min_size=2, max_size=4))
@FILES
def test_a_dictionary_only_grows_and_is_the_same_again(tmp_path: Path, days: list[list[dict]]) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    before: list[dict] = []
    for number, posts in enumerate(days):
        tagged = write_posts(posts, tmp_path / f"{number}.parquet")
        for name in ("d", "again"):
            export_features(tagged, tmp_path / f"{name}{number}.libsvm", tmp_path / f"{name}.parquet")
        after = read_dictionary(tmp_path / "d.parquet")
        assert after[: len(before)] == before
        assert [row["number"] for row in after] == list(range(1, len(after) + 1))
        assert len({(row["kind"], row["name"]) for row in after}) == len(after)
        # Yesterday's file, exported with today's dictionary, is what it was.
        export_features(tmp_path / "0.parquet", tmp_path / "old.libsvm", tmp_path / "d.parquet")
        assert (tmp_path / "old.libsvm").read_bytes() == (tmp_path / "d0.libsvm").read_bytes()
        before = after
    assert (tmp_path / "d.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()


def example(folder: Path) -> Path:
    posts: list[dict] = [
        {"tags": {"food": 0.9, "food/cake": 0.5}, "keywords": {"a b:c|d": 0.25}, "route": "fast", "label": 1.0},
        {"tags": {}, "keywords": {}, "route": None, "label": 0.0, "post_id": "two\nlines"},
    ]
    return write_posts(posts, folder / "t.parquet")


def test_the_formats_line_by_line(tmp_path: Path) -> None:
    tagged = example(tmp_path)
    for suffix in FORMATS:
        export_features(tagged, tmp_path / f"o{suffix}", tmp_path / "d.parquet", label="label")
    assert (tmp_path / "o.libsvm").read_text() == "1 1:0.9 2:0.5 3:0.25 4:1\n0\n"
    assert (tmp_path / "o.libffm").read_text() == "1 1:1:0.9 2:2:0.5 3:3:0.25 4:4:1\n0\n"
    expected = (
        "1 '0%3Aa%20b%7C%25|tag1 food:0.9 |tag2 food/cake:0.5 |keyword a%20b%3Ac%7Cd:0.25 |route fast:1\n-1 'two%0Alines|\n"
    )
    assert (tmp_path / "o.vw").read_text() == expected
    assert (tmp_path / "o.libsvm.ids").read_text() == "0%3Aa%20b%7C%25\ntwo%0Alines\n"
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.schema.equals(arrow_schema("features"))
    assert table["fields"].to_pylist() == [[1, 2, 3, 4], []]
    export_features(tagged, tmp_path / "plain.vw", tmp_path / "d.parquet")
    assert (tmp_path / "plain.vw").read_text().startswith("'0%3Aa")


def test_vowpal_wabbit_reads_names_tags_and_labels(tmp_path: Path) -> None:
    wabbit = pytest.importorskip("vowpalwabbit", reason="the format is read by vowpalwabbit itself where it is installed")
    export_features(example(tmp_path), tmp_path / "o.vw", tmp_path / "d.parquet", label="label")
    with wabbit.Workspace("--quiet --noconstant", enable_logging=False) as workspace:
        first, second = (workspace.parse(line) for line in (tmp_path / "o.vw").read_text().splitlines())
        assert first.get_tag() == "0%3Aa%20b%7C%25"
        assert [first.num_features_in(namespace) for namespace in ("t", "k", "r")] == [2, 1, 1]
        assert first.feature_weight("k", 0) == 0.25
        assert (first.get_simplelabel_label(), second.get_simplelabel_label()) == (1.0, 0.0)
        assert second.get_feature_number() == 0
        for parsed in (first, second):
            workspace.finish_example(parsed)


def test_levels_come_from_the_taxonomy_and_stay_as_first_seen(tmp_path: Path) -> None:
    tags = {"food": 1.0, "cake": 1.0, "far/off": 1.0}
    tagged = write_posts([{"tags": tags, "keywords": {}, "route": "fast", "label": 0.0}], tmp_path / "t.parquet")
    tree = Taxonomy([Tag("food", None, "food", (), (), 2), Tag("cake", "food", "cake", (), (), 3)])
    export_features(tagged, tmp_path / "o.libffm", tmp_path / "d.parquet", taxonomy=tree)
    fields = {row["name"]: row["field"] for row in read_dictionary(tmp_path / "d.parquet")}
    assert fields == {"food": "tag1", "cake": "tag2", "far/off": "tag2", "fast": "route"}
    before = (tmp_path / "o.libffm").read_bytes()
    export_features(tagged, tmp_path / "o.libffm", tmp_path / "d.parquet")
    assert (tmp_path / "o.libffm").read_bytes() == before


def test_scores_that_say_nothing_are_left_out_and_the_higher_of_two_counts(tmp_path: Path) -> None:
    scores = [("a", 0.5), ("a", 0.75), ("b", 0.0), ("c", math.nan), ("d", None)]
    row = {"post_id": "1", "tags": [{"id": name, "score": score} for name, score in scores], "keywords": None, "route": "x"}
    pq.write_table(pa.Table.from_pylist([row], schema=arrow_schema("tags")), tmp_path / "t.parquet")
    export_features(tmp_path / "t.parquet", tmp_path / "o.parquet", tmp_path / "d.parquet")
    assert pq.read_table(tmp_path / "o.parquet")["values"].to_pylist() == [[0.75, 1.0]]
    assert [row["name"] for row in read_dictionary(tmp_path / "d.parquet")] == ["a", "x"]


def test_codes_join_by_post(tmp_path: Path) -> None:
    tagged = example(tmp_path)
    codes = pa.table({"post_id": ["two\nlines", "other"], "codes": [["s0_1", "s0_1_2"], ["s0_3"]]})
    export_features(tagged, tmp_path / "o.libffm", tmp_path / "d.parquet", codes=codes)
    assert (tmp_path / "o.libffm").read_text().splitlines()[1] == "0 5:5:1 5:6:1"
    assert [row["name"] for row in read_dictionary(tmp_path / "d.parquet") if row["kind"] == "code"] == ["s0_1", "s0_1_2"]


@pytest.mark.parametrize("channel", [None, "tech", "none"])
def test_keywords_become_clusters_of_the_channel(tmp_path: Path, channel: str | None) -> None:
    (tmp_path / "c.csv").write_text(
        "channel,keyword,cluster,posts\nfood,Apple,fruit,9\ntech,apple,phones,5\ntech,iphone,phones,7\n", encoding="utf-8"
    )
    keywords = {"apple": 0.5, "iPhone": 0.75, "unknown": 1.0}
    posts = [
        {"tags": {"x": 1.0, "tech": 0.9, "food": 0.8}, "keywords": keywords, "route": None, "label": 0.0},
        {"tags": {}, "keywords": keywords, "route": None, "label": 0.0},
    ]
    tagged = write_posts(posts, tmp_path / "t.parquet")
    if channel is not None:
        table = pq.read_table(tagged)
        pq.write_table(table.append_column("channel", pa.array([channel] * 2)), tagged)
    clusters = open_clusters(tmp_path / "c.csv")
    export_features(tagged, tmp_path / "o.parquet", tmp_path / "d.parquet", clusters=clusters)
    found = read_back(tmp_path / "o.parquet", read_dictionary(tmp_path / "d.parquet"))
    named = [{name: value for (kind, name), value in row.items() if kind == "cluster"} for row in found]
    # The higher of two keywords of a cluster counts; where no channel is told, that of most posts does.
    told = {"tech/phones": 0.75}
    untold = {"food/fruit": 0.5, "tech/phones": 0.75}
    assert named == {None: [told, untold], "tech": [told, told], "none": [untold, untold]}[channel]
    assert not any(kind == "keyword" for row in found for kind, _ in row)


def test_csv_and_jsonl_give_what_parquet_gives(tmp_path: Path) -> None:
    tagged = example(tmp_path)
    for name in ("t.csv", "t.jsonl"):
        assert ask("export", str(tagged), "-o", str(tmp_path / name)).exit_code == 0
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        export_features(tmp_path / name, tmp_path / f"{name}.vw", tmp_path / f"{name}.d.parquet", label="label")
    assert len({(tmp_path / f"{name}.vw").read_text() for name in ("t.parquet", "t.csv", "t.jsonl")}) == 1


def damage(path: Path, how: str) -> None:
    table = pq.read_table(path)
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "shortened":
        pq.write_table(table.slice(0, len(table) - 1), path)
    elif how == "renamed":
        names = pc.replace_substring(table["name"], "food", "feed")
        pq.write_table(table.set_column(3, "name", names), path)
    elif how == "without its digest":
        pq.write_table(table.replace_schema_metadata(None), path)
    elif how == "of an older day":
        pq.write_table(pq.read_table(path.with_name("older.parquet")), path)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut off", "shortened", "renamed", "without its digest", "of an older day", "lost"])
def test_a_damaged_or_shorter_dictionary_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    tagged, dictionary = example(tmp_path), tmp_path / "d.parquet"
    write_posts([{"tags": {"x": 1.0}, "keywords": {}, "route": "x", "label": 0.0}], tmp_path / "first.parquet")
    export_features(tmp_path / "first.parquet", tmp_path / "o.vw", dictionary)
    (tmp_path / "older.parquet").write_bytes(dictionary.read_bytes())
    export_features(tagged, tmp_path / "o.vw", dictionary)
    before = (tmp_path / "o.vw").read_bytes()
    damage(dictionary, how)
    with pytest.raises(RequestError, match=r"d\.parquet: .*put (a copy|the whole one) back") as told:
        export_features(tagged, tmp_path / "o.vw", dictionary)
    assert "\n" not in str(told.value)
    assert (tmp_path / "o.vw").read_bytes() == before


def test_two_at_once_share_a_dictionary(tmp_path: Path) -> None:
    def export(day: int) -> None:
        tags = {f"t{number}": 1.0 for number in range(day, day + 3)}
        tagged = write_posts([{"tags": tags, "keywords": {}, "route": "x", "label": 0.0}], tmp_path / f"{day}.parquet")
        export_features(tagged, tmp_path / f"{day}.parquet.libsvm", tmp_path / "d.parquet")

    threads = [threading.Thread(target=export, args=(day,)) for day in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = read_dictionary(tmp_path / "d.parquet")
    assert sorted(row["name"] for row in known) == sorted(["x", *(f"t{number}" for number in range(8))])
    for day in range(6):
        (features,) = read_back(tmp_path / f"{day}.parquet.libsvm", known)
        assert set(features) == {("route", "x"), *(("tag", f"t{number}") for number in range(day, day + 3))}


def test_an_error_on_the_way_leaves_dictionary_and_output_as_they_were(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_dictionary(tmp_path / "d.parquet") as dictionary:
        dictionary.number(["tag\0a"], None)
        raise KeyError
    assert not (tmp_path / "d.parquet").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "o.txt"], "o.txt: unknown format; expected a name that ends in .libsvm, .libffm, .vw, .parquet"),
        (["-o", "d.parquet"], "--dictionary d.parquet: is where --out d.parquet is written, too"),
        (["-o", "o.vw", "--label", "clicks"], "t.parquet has no column clicks; found label"),
        (["-o", "o.vw", "--label", "route"], "column route has no label in numbers"),
        (["-o", "o.vw", "--codes", "t.parquet"], "t.parquet: no codes"),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    example(tmp_path)
    result = ask("keywords", "export", "t.parquet", "--dictionary", "d.parquet", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "d.parquet").exists()


def test_the_command_tells_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example(tmp_path)
    words = ["keywords", "export", "t.parquet", "-o", "o.libsvm", "--dictionary", "d.parquet"]
    assert "2 posts, 4 features, 4 of them new" in ask(*words).stderr
    assert "2 posts, 4 features, 0 of them new" in ask(*words).stderr
    assert np.array_equal(load_svmlight_file("o.libsvm")[1], [0, 0])


@pytest.mark.parametrize(
    ("labels", "expected"), [([0, 1, 1], "-1 1 1"), ([True, False, True], "1 -1 1"), ([0, 1, 2], "0 1 2")]
)
def test_labels_of_two_kinds_are_signed_for_vowpal_wabbit_alone(tmp_path: Path, labels: list[int], expected: str) -> None:
    path, tags = tmp_path / "t.parquet", pa.array([[]] * 3, arrow_schema("tags").field("tags").type)
    pq.write_table(pa.table({"post_id": ["a", "b", "c"], "tags": tags, "y": labels}), path)
    for ending in ("vw", "libsvm"):
        export_features(path, tmp_path / f"o.{ending}", tmp_path / "d.parquet", label="y")
    assert " ".join(line.split()[0] for line in (tmp_path / "o.vw").read_text().splitlines()) == expected
    plain = " ".join(str(int(label)) for label in labels)
    assert " ".join(line.split()[0] for line in (tmp_path / "o.libsvm").read_text().splitlines()) == plain
