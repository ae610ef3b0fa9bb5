import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from weibotag.cli.main import app
from weibotag.core.errors import TaxonomyError
from weibotag.taxonomy import reader
from weibotag.taxonomy.check import Diagnostic, check
from weibotag.taxonomy.reader import join_list, split_list
from weibotag.taxonomy.tree import Tag, Taxonomy, count_posts, count_unknown, label_matrix, load, save_csv, warn_of_unknown

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("WEIBOTAG_SHARED", ROOT.parent / "shared"))
CSV = """id,parent_id,name,aliases,keywords
美妆,,美妆,彩妆;化妆,
美妆/口红,美妆,口红,唇膏,色号；试色
美妆/口红/试色,美妆/口红,试色,,
美食,,美食,,
美食/苹果,美食,苹果,,
美食/火锅,美食,火锅,,
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "tree.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding=encoding, newline="")
        return path

    return write_file


def kinds(path: Path) -> set[tuple[str, int, str]]:
    return {(finding.level, finding.line, finding.kind) for finding in check(path)}


def test_load_csv(write: Write) -> None:
    taxonomy = load(write(CSV))
    assert taxonomy.ids == ("美妆", "美妆/口红", "美妆/口红/试色", "美食", "美食/苹果", "美食/火锅")
    assert taxonomy.tags[1] == Tag("美妆/口红", "美妆", "口红", ("唇膏",), ("色号", "试色"), 3)
    assert taxonomy.tags[0].parent_id is None
    assert taxonomy.parents.tolist() == [-1, 0, 1, -1, 3, 3]
    assert taxonomy.depth.tolist() == [1, 2, 3, 1, 2, 2]
    assert taxonomy.is_leaf.tolist() == [False, False, True, False, True, True]
    assert taxonomy.ancestors(2) == (1, 0)
    assert taxonomy.children(3) == (4, 5)
    assert taxonomy.children(-1) == (0, 3)
    assert taxonomy.children(5) == ()
    assert taxonomy.index["美食/火锅"] == 5
    assert taxonomy.expand(["美妆/口红/试色", "生活"]) == {"美妆", "美妆/口红", "美妆/口红/试色", "生活"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_load_encodings_and_line_ends(write: Write, encoding: str) -> None:
    taxonomy = load(write(CSV.replace("\n", "\r\n"), encoding=encoding))
    assert taxonomy.digest == load(write(CSV, "plain.csv")).digest
    assert taxonomy.tags[1].line == 3


def test_load_trees_of_json_and_yaml(write: Write) -> None:
    tree = [
        {
            "name": "美妆",
            "aliases": ["彩妆", "化妆"],
            "children": [{"name": "口红", "aliases": ["唇膏"], "keywords": "色号;试色", "children": [{"name": "试色"}]}],
        },
        {"name": "美食", "children": [{"name": "苹果"}, {"name": "火锅"}]},
    ]
    from_json = load(write(json.dumps(tree, ensure_ascii=False, indent=1), "tree.json"))
    assert from_json.digest == load(write(CSV)).digest
    assert from_json.tags[1].line == 9
    yaml_text = """
- name: 美妆
  aliases: [彩妆, 化妆]
  children:
    - name: 口红
      aliases: [唇膏]
      keywords: [色号, 试色]
      children:
        - name: 试色
- name: 美食
  children: [{name: 苹果}, {name: 火锅}]
"""
    from_yaml = load(write(yaml_text, "tree.yaml"))
    assert from_yaml.digest == from_json.digest
    assert from_yaml.tags[1].line == 5


def test_yaml_words_stay_as_written(write: Write) -> None:
    taxonomy = load(write("- name: 007\n- {id: no, name: NO}\n- {id: x, name: x, aliases: ~}\n", "tree.yml"))
    assert [tag.name for tag in taxonomy.tags] == ["007", "NO", "x"]
    assert taxonomy.tags[2].aliases == ()


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("t.csv", "id,name\na,b\n", 1, "no column parent_id"),
        ("t.csv", "", 1, "no column id"),
        ("t.csv", "id,parent_id,name\na,b,A\nb,a,B\n", 2, "a > b > a"),
        ("t.csv", "id,parent_id,name\na,a,A\n", 2, "a > a"),
        ("t.csv", "id,parent_id,name\na,,A\n\na,,B\n", 4, "a is also on line 2"),
        ("t.csv", 'id,parent_id,name,aliases\na,,A,"x\ny"\nb,c,B,\n', 4, "parent_id c of b"),
        ("t.csv", "id,parent_id,name\n ,,A\n", 2, "without an id"),
        ("t.csv", "id,parent_id,name\na,, \n", 2, "a has no name"),
        ("t.csv", "id,parent_id,name\na,,A,B\n", 2, "beyond the header: B"),
        ("t.json", '[\n{"name": "a",}]', 2, "not JSON"),
        ("t.json", '[{"name": "a"},\n{"name": "b", "child": []}]', 2, "unknown key 'child'"),
        ("t.json", '[{"name": "a"},\n{"name": ["b"]}]', 2, "expected text"),
        ("t.json", '{"name": "a"}', 1, "expected a list of tags"),
        ("t.json", '[\n{"name": true}]', 2, "expected text"),
        ("t.json", '[{"name": "a", "children": [\n{"name": "b",\n"name": "c"}]}]', 2, "key 'name' given twice"),
        ("t.json", '[{"name": ' + "9" * 5_000 + "}]", 1, "not JSON"),
        ("t.csv", 'id,parent_id,name\na,,A\nb,,"B\nc,,C\nd,,D\n', 3, "check the quotes"),
        ("t.yaml", "- name: a\n- name: [b\n", 3, "not YAML"),
        ("t.yaml", "- name: a\n  children:\n  - name: b\n    name: c\n", 3, "key 'name' given twice"),
        ("t.yaml", "- a\n", 1, "expected a tag"),
        ("t.yaml", "- &x\n  name: a\n  children: [*x]\n", 2, "levels"),
        ("t.yaml", "[" * 50_000, 1, "nested too deeply"),
        ("t.yaml", "{a: " * 50_000, 1, "nested too deeply"),
        (
            "t.yaml",
            "- &a [x]\n" + "".join(f"- &{b} [{f'*{a},' * 9}]\n" for a, b in pairwise("abcdefghi")),
            7,
            "aliases stand",
        ),
        ("t.yaml", "- name: a\n- ? [b]\n  : c\n", 2, "a key that is no text"),
        ("t.json", '[{"name": "a"},\n{"name": "\\ud800"}]', 2, "surrogate"),
    ],
)
def test_load_says_line_and_fix(write: Write, name: str, text: str, line: int, words: str) -> None:
    path = write(text, name)
    with pytest.raises(TaxonomyError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_beyond_the_limits_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaxonomyError, match=r"zero: more than 64,000,000 bytes"):
        load(Path("/dev/zero"))
    monkeypatch.setattr(reader, "MOST_VALUES", 10)
    with pytest.raises(TaxonomyError, match="1: more than 10 values"):
        load(write(f"[{'a,' * 11}]", "t.yaml"))


def test_half_characters_are_errors_of_the_check(write: Write) -> None:
    text = json.dumps([{"name": "\ud800b"}, {"name": "a", "keywords": ["\udc00"]}, {"name": "bb"}])
    assert [one.kind for one in check(write(text, "t.json")) if one.level == "error"] == ["half a character"] * 2


def test_load_takes_a_long_list_of_keywords(write: Write) -> None:
    words = tuple(f"word {number}" for number in range(20_000))
    assert load(write(f"id,parent_id,name,keywords\na,,A,{';'.join(words)}\n")).tags[0].keywords == words


def test_load_counts_further_errors(write: Write) -> None:
    path = write("id,parent_id,name\na,,A\na,,B\nc,d,C\n,,E\n")
    with pytest.raises(TaxonomyError, match=r":3: duplicate id: .*\(2 more: weibotag taxonomy check "):
        load(path)


def test_load_refuses_missing_and_empty_files(write: Write, tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match=r"nothere\.csv"):
        load(tmp_path / "nothere.csv")
    with pytest.raises(TaxonomyError, match="no tags"):
        load(write("id,parent_id,name\n"))
    with pytest.raises(TaxonomyError, match="neither UTF-8 nor GB18030"):
        (tmp_path / "b.csv").write_bytes(b"id,parent_id,name\n\xff\xff,,\xff\n")
        load(tmp_path / "b.csv")


def test_deep_json_is_refused_in_one_line(write: Write) -> None:
    with pytest.raises(TaxonomyError, match=r"(at most|more than) 100 levels"):
        load(write('[{"name": "a", "children": ' * 3000 + "[]" + "}]" * 3000, "deep.json"))


def test_digest_follows_content(write: Write) -> None:
    digest = load(write(CSV)).digest
    assert load(write(CSV.replace("色号；试色", " 色号 ; 试色;色号"))).digest == digest
    assert load(write(CSV.replace("唇膏", "唇釉"))).digest != digest


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).map(str.strip).filter(bool)


@st.composite
def taxonomies(draw: st.DrawFn) -> Taxonomy:
    ids = draw(st.lists(WORDS, min_size=1, max_size=12, unique=True))
    lists = st.lists(WORDS, max_size=3, unique=True).map(tuple)
    tags = []
    for number, tag_id in enumerate(ids):
        parent = draw(st.integers(-1, number - 1))
        parent_id = None if parent < 0 else ids[parent]
        tags.append(Tag(tag_id, parent_id, draw(WORDS), draw(lists), draw(lists), number))
    return Taxonomy(draw(st.permutations(tags)))


@given(taxonomies())
def test_saved_taxonomy_loads_the_same(tmp_path_factory: pytest.TempPathFactory, taxonomy: Taxonomy) -> None:
    path = tmp_path_factory.mktemp("saved") / "taxonomy.csv"
    save_csv(taxonomy, path)
    loaded = load(path)
    assert loaded.digest == taxonomy.digest
    assert loaded.ids == taxonomy.ids
    assert [tag.keywords for tag in loaded.tags] == [tag.keywords for tag in taxonomy.tags]


@given(taxonomies())
def test_tree_is_told_the_same_in_every_way(taxonomy: Taxonomy) -> None:
    closure = taxonomy.closure_matrix()
    placed = {int(number): place for place, number in enumerate(taxonomy.order)}
    for number, tag in enumerate(taxonomy.tags):
        family = {number, *taxonomy.ancestors(number)}
        assert set(closure[number].indices) == family
        assert taxonomy.depth[number] == len(family)
        assert taxonomy.expand([tag.id]) == {taxonomy.ids[member] for member in family}
        assert all(taxonomy.parents[child] == number for child in taxonomy.children(number))
        assert taxonomy.is_leaf[number] == (not taxonomy.children(number))
        assert all(placed[member] < placed[number] for member in taxonomy.ancestors(number))
    assert sum(len(taxonomy.children(number)) for number in range(-1, len(taxonomy))) == len(taxonomy)


@given(st.lists(WORDS, max_size=4).map(tuple))
def test_lists_survive_their_cell(words: tuple[str, ...]) -> None:
    assert split_list(join_list(words)) == words


def test_a_cell_of_brackets_is_a_word() -> None:
    for cell in ("[" * 100_000, "[" * 3 + "1" * 5_000):
        assert split_list(cell) == (cell,)


def test_check_finds_fatal_errors(write: Write) -> None:
    path = write("id,parent_id,name\na,b,甲甲\nb,a,乙乙\nb,,丙丙\nd,x,丁丁\n,,戊戊\nf,,\n")
    assert {finding for finding in kinds(path) if finding[0] == "error"} == {
        ("error", 2, "cycle"),
        ("error", 4, "duplicate id"),
        ("error", 5, "unknown parent"),
        ("error", 6, "empty id"),
        ("error", 7, "empty name"),
    }


def test_check_finds_oddities(write: Write) -> None:
    path = write(
        "id,parent_id,name,aliases,keywords\n"
        "a,,美妆,彩妆,\n"
        "a1,a,口红,唇膏;彩妆,词语\n"
        "a2,a,口红试色,眼影,词语\n"
        "a3,a,眼影, 盘 ,词语\n"
        "a4,a,口红,,\n"
        "b,,美食,,词语\n"
        "b1,b,苹果,,ＮＢＡ\n"
        "b11,b1,口红,,\n"
        "c,,旅游,,\n"
        "d;e,c,山川,山川,\n"
    )
    assert kinds(path) == {
        ("warning", 3, "shared word"),
        ("note", 4, "name in a name"),
        ("warning", 4, "alias is another name"),
        ("warning", 5, "blank around a word"),
        ("warning", 5, "one character"),
        ("error", 6, "duplicate name"),
        ("warning", 7, "single child"),
        ("warning", 8, "single child"),
        ("warning", 8, "full-width letters or digits"),
        ("note", 9, "same name elsewhere"),
        ("warning", 10, "single child"),
        ("error", 11, "id with ;"),
        ("note", 11, "alias is name"),
    }
    assert all(finding.fix and finding.message for finding in check(path))


def test_check_finds_channels_without_children(write: Write) -> None:
    assert ("note", 8, "empty channel") in kinds(write(CSV + "旅游,,旅游,,\n"))
    flat = write("id,parent_id,name\na,,甲甲\nb,,乙乙\n", "flat.csv")
    assert check(flat) == []


def test_check_leaves_a_clean_file_alone(write: Write) -> None:
    path = write("id,parent_id,name,aliases,keywords\na,,美妆,,\na1,a,口红,唇膏 Lipstick,色号\na2,a,眼影,,\n")
    assert check(path) == []


def test_counts(write: Write) -> None:
    taxonomy = load(write(CSV))
    first = pa.table({"tags": pa.array([["美妆", "美妆/口红"], None, ["美妆/口红/试色", "美妆/口红/试色"]])})
    second = pa.table({"tags": pa.array([["美食/火锅", "生活", "生活"], []], pa.list_(pa.string()))})
    assert count_posts([first, second.slice(0, 1)], taxonomy) == {
        "美妆": (1, 2),
        "美妆/口红": (1, 2),
        "美妆/口红/试色": (1, 1),
        "美食": (0, 1),
        "美食/苹果": (0, 0),
        "美食/火锅": (1, 1),
        "生活": (1, 1),
    }


def test_check_command(write: Write) -> None:
    runner = CliRunner()
    clean = runner.invoke(app, ["taxonomy", "check", str(write(CSV))])
    assert clean.exit_code == 0
    assert "0 errors" in clean.stderr
    bad = write(CSV + "美食/火锅,美食,火锅,,\n", "bad.csv")
    found = runner.invoke(app, ["taxonomy", "check", str(bad), "--json"])
    assert found.exit_code == 2
    errors = [Diagnostic(**entry) for entry in json.loads(found.stdout) if entry["level"] == "error"]
    assert [(error.line, error.kind) for error in errors] == [(8, "duplicate id"), (8, "duplicate name")]
    quiet = runner.invoke(app, ["taxonomy", "check", str(bad), "--quiet"])
    assert quiet.exit_code == 2
    assert quiet.stderr == ""
    assert len(quiet.stdout.splitlines()) == 2
    assert quiet.stdout.startswith(f"{bad}:8: error: duplicate id: ")


def test_show_command(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("weibotag.posts.reader", reason="posts can't be read yet")
    tree = str(write(CSV))
    posts = write("post_id,text,tags\n1,a,美妆/口红\n2,b,美妆;生活\n3,c,\n4,d,美食/火锅\n", "posts.csv")
    runner = CliRunner()
    plain = runner.invoke(app, ["taxonomy", "show", tree, "--depth", "1"])
    assert plain.exit_code == 0
    assert "美食" in plain.stdout
    assert "火锅" not in plain.stdout
    counted = runner.invoke(app, ["taxonomy", "show", tree, str(posts)])
    assert counted.exit_code == 0, counted.output
    assert "美妆 1 / 2" in counted.stdout
    assert "生活 (1)" in counted.stderr
    picked = runner.invoke(app, ["taxonomy", "show", tree, str(posts), "--where", "post_id <> '1'", "--json"])
    numbers = {entry["id"]: entry["posts"] for entry in json.loads(picked.stdout)}
    assert (numbers["美妆"], numbers["美妆/口红"], numbers["生活"]) == (1, 0, 1)


@pytest.mark.parametrize("command", ["check", "show"])
def test_help_has_an_example(command: str) -> None:
    answer = CliRunner().invoke(app, ["taxonomy", command, "--help"])
    assert answer.exit_code == 0
    assert f"weibotag taxonomy {command} taxonomies/weibo.csv" in " ".join(answer.stdout.split())


@pytest.mark.skipif(not (SHARED / "data/feed/taxonomy.csv").exists(), reason="no real data (set WEIBOTAG_SHARED)")
def test_real_taxonomy_loads_without_errors() -> None:
    path = SHARED / "data/feed/taxonomy.csv"
    taxonomy = load(path)
    assert int(taxonomy.depth.max()) == 4
    assert np.all(taxonomy.parents[taxonomy.depth == 1] == -1)
    assert not [finding for finding in check(path) if finding.level == "error"]


@pytest.mark.skipif(not (ROOT / "taxonomies/weibo.csv").exists(), reason="no taxonomies/weibo.csv beside the tests")
def test_shipped_taxonomy_is_sound() -> None:
    path = ROOT / "taxonomies/weibo.csv"
    taxonomy = load(path)
    assert len(taxonomy.children(-1)) >= 40
    assert int((taxonomy.depth == 2).sum()) >= 850
    assert all(len(tag.keywords) >= 3 for tag in taxonomy.tags if tag.parent_id)
    assert not [finding for finding in check(path) if finding.level in ("error", "warning")]


def test_labels_may_be_names_that_only_one_tag_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,parent_id,name\na,,体育\nb,a,足球\nc,,数码\nd,c,足球\ne,c,手机\n手机,c,壳\n", encoding="utf-8")
    tree = load(path)
    assert [tree.find(word) for word in ("b", "体育", "足球", "手机", "壳", "无")] == [1, 0, None, 5, 5, None]
    tags = pa.chunked_array([[["体育", "d"], ["壳", "无", "足球"], None]], pa.list_(pa.string()))
    assert label_matrix(tags, tree).toarray().astype(int).tolist() == [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0] * 6]
    unknown = count_unknown([pa.table({"tags": tags})], tree)
    assert unknown == {"无": 1, "足球": 1}
    warn_of_unknown({"足球": 2, "体育1": 1, "无": 1}, tree)
    assert "足球 (2: did you mean b or d?), 体育1 (1: did you mean 体育?), 无 (1) …" in caplog.text
