"""The Python interface: what it exports, and that it gives the rows of the commands."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import add_pictures, ask, enter
from conftest import EXAMPLES, ROOT

import weibotag
from weibotag import Model, Taxonomy, detect, embed, faces, ocr
from weibotag.core.errors import ModelError, RequestError

POSTS = [
    {"post_id": "1", "text": "今天的蛋糕真好吃"},
    {"post_id": "2", "text": "新买的汽车"},
    {"post_id": "3", "text": "嗯"},
]


def test_what_is_exported() -> None:
    assert weibotag.__all__ == ["Model", "Taxonomy", "__version__", "detect", "embed", "faces", "ocr"]
    assert all(getattr(weibotag, name) for name in weibotag.__all__)
    assert all(one.__doc__ for one in (Model, Model.load, Model.train, Model.tag, Taxonomy, detect, embed, faces, ocr))
    with pytest.raises(AttributeError, match="no attribute 'models'"):
        weibotag.models  # noqa: B018


def test_importing_is_light() -> None:
    code = "import sys, weibotag; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "pandas", "pyarrow", "pydantic", "typer"} & set(loaded)


def test_a_taxonomy_tags_a_table_and_a_frame_as_the_command_does(folder: Path) -> None:
    table = pa.Table.from_pylist(POSTS)
    tags = Taxonomy.load("tree.csv").tag(table)
    assert [[tag["id"] for tag in post] for post in tags["tags"].to_pylist()] == [["food", "cake"], ["car"], []]
    assert Taxonomy.load("tree.csv").tag(pd.DataFrame(POSTS)).equals(tags)
    pq.write_table(table, folder / "posts.parquet")
    assert ask("tag", "posts.parquet", "-t", "tree.csv", "-o", "tags.parquet", "-q").exit_code == 0
    assert tags.equals(pq.read_table(folder / "tags.parquet"))


def test_words_that_are_given_and_pictures_that_are_named_are_read(folder: Path) -> None:
    add_pictures(folder)
    tree = Taxonomy.load("tree.csv")
    printed = [{"post_id": "1", "text": "看图", "images": "sale.png", "ocr_text": "蛋糕"}]
    looks: dict[str, Any] = {"store": folder / "own", "workers": 0}
    said = tree.tag(pd.DataFrame(printed), words={"ocr": "ocr_text"}, words_only=True, **looks)
    assert [tag["id"] for tag in said["tags"][0].as_py()] == ["food", "cake"]
    seen = tree.tag(pa.Table.from_pylist([{"post_id": "1", "text": "看图", "images": ["none.png"]}]), **looks)
    assert "none.png" in seen["error"][0].as_py()


def test_a_model_tags_a_table(example_model: Path, example_store: Path) -> None:
    model = Model.load(example_model)
    assert model.about["posts"]["train"] > 0
    rows = model.tag(pa.Table.from_pylist(POSTS), store=example_store)
    assert rows["post_id"].to_pylist() == ["1", "2", "3"]
    assert set(model.tag(pa.Table.from_pylist(POSTS), route="rules")["route"].to_pylist()) == {"rules"}


def test_what_is_wrong_raises_the_errors_of_the_command(folder: Path) -> None:
    with pytest.raises(ModelError, match="no model there"):
        Model.load("none")
    tree = Taxonomy.load("tree.csv")
    with pytest.raises(RequestError, match="unknown key 'rout'; did you mean 'route'"):
        tree.tag(pa.Table.from_pylist(POSTS), rout="rules")
    with pytest.raises(RequestError, match="needs a trained model"):
        tree.tag(pa.Table.from_pylist(POSTS), route="fast")


def test_a_stage_looks_at_paths_and_tables(folder: Path) -> None:
    add_pictures(folder)
    looks: dict[str, Any] = {"store": folder / "own", "workers": 0}
    found = ocr([folder / "sale.png", "two.gif", "two.gif"], **looks)
    assert found["post_id"].to_pylist()[0] == str(folder / "sale.png")
    assert "SALE" in str(found["ocr_lines"][0].as_py())
    assert len(found) == 3
    table = pa.Table.from_pylist([{"post_id": "1", "text": "字", "images": "sale.png;two.gif"}])
    assert ocr(table, min_score=0.6, **looks)["post_id"].to_pylist() == ["1"] * 3
    assert len(embed(["sale.png"], **looks)["embed_vector"][0]) > 100
    assert faces(["sale.png"], **looks)["faces_found"].to_pylist() == [[]]
    with pytest.raises(RequestError, match="did you mean 'min_score'"):
        ocr(["sale.png"], min_scor=0.5, **looks)


@pytest.mark.slow
def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "taxonomies").symlink_to(ROOT / "taxonomies")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "docs/api.md", "exec"), {})
    assert (tmp_path / "build" / "model" / "model.json").is_file()
