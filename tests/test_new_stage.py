"""A stage is one file, one registry entry and one schema entry: wordings, cascade, prices and doctor know it then."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy_stage
from commands import ask, draw, enter

from weibotag.core.schema import TABLES, WORDING
from weibotag.extraction.context import ExtractionStats
from weibotag.taggers.cascade.policy import given, limit, stages_of
from weibotag.vision.registry import REGISTRY
from weibotag.vision.stage import stages_of_kinds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(REGISTRY, ("stage", "toy"), toy_stage.ENTRY)
    monkeypatch.setitem(TABLES, "toy", toy_stage.COLUMNS)
    enter(tmp_path, monkeypatch)
    for name, colour in (("day.png", "white"), ("night.png", "navy")):
        draw(tmp_path / name, "", colour=colour)
    (tmp_path / "posts.csv").write_text("post_id,text,images\n1,蛋糕,day.png\n2,汽车,night.png\n", encoding="utf-8")
    (tmp_path / "toy.toml").write_text('stages = ["toy"]\n[toy]\nbright = 100\n')
    return tmp_path


def test_its_words_are_among_the_wordings_of_a_post(folder: Path) -> None:
    options = ("-p", "toy.toml", "--workers", "0", "-q")
    assert ask("wordings", "posts.csv", "-o", "words.parquet", *options).exit_code == 0
    posts = pq.read_table("words.parquet")["wordings"].to_pylist()
    assert [[(one["kind"], one["word"]) for one in own] for own in posts] == [[("light", "bright")], [("light", "dark")]]
    answer = ask("tag", "posts.csv", "-t", "tree.csv", "-o", "out.parquet", "--json", *options)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["pictures"]["files"] == json.loads(answer.stdout)["pictures"]["reused"] == 2
    assert pq.read_table("out.parquet")["error"].null_count == 2


def test_a_cascade_has_its_bit_and_its_nominal_price(folder: Path) -> None:
    order = ("ocr", "toy")
    words = [
        {"word": kind, "kind": kind, "score": 1.0, "count": 1, "media_id": None, "box": None} for kind in ("ocr", "light")
    ]
    table = pa.table({"wordings": pa.array([words, words[:1], words[1:]], pa.list_(WORDING))})
    assert given(table, order).tolist() == [3, 1, 2]
    kept = limit(table, stages_of(2, order))["wordings"].to_pylist()
    assert [[one["kind"] for one in own] for own in kept] == [["light"], [], ["light"]]
    assert stages_of_kinds(["light"]) == ("toy",)
    assert ExtractionStats().prices(order, 1) == {"ocr": 25.0, "toy": 0.5}
    looked = ExtractionStats(seconds={"toy": 2.0, "decode": 1.0}, frames={"toy": 100})
    assert np.isclose(looked.prices(order, 2)["toy"], 15.0)


def test_doctor_names_it(folder: Path) -> None:
    state = json.loads(ask("doctor", "--json").stdout)
    assert {"name": "toy", "kinds": ["light"], "nominal_ms": 0.5} in state["stages"]
    assert "light" in ask("doctor").stdout
