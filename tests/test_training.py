import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask, enter, slow_but
from scipy.sparse import csr_matrix

from weibotag.taggers.fasttext import DivergedError, Settings, train
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.training import fasttext, learners
from weibotag.training.dataset import Dataset, LearningOptions, Lesson

TREE = Taxonomy([Tag("美妆", None, "美妆", (), (), 2), Tag("体育", None, "体育", (), (), 3)])


def rows() -> Dataset:
    texts = ["口红显白", "进球了"] * 20
    table = pa.table({name: texts if name == "text" else [""] * 40 for name in ("post_id", "text", "author", "channel")})
    return Dataset([table], csr_matrix(np.array([[1, 0], [0, 1]] * 20, np.float32)))


def lesson(seconds: float) -> Lesson:
    return Lesson(rows(), rows(), TREE, LearningOptions(seconds, quiet=True))


def test_a_trial_that_runs_away_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def frail(lines: list[str], gold: csr_matrix, settings: Settings, threads: int) -> object:
        if settings.lr >= 0.5:
            raise DivergedError("Encountered NaN")
        return train(lines, gold, settings, threads)

    monkeypatch.setattr(fasttext, "train", frail)
    network, settings, trials = fasttext.tune(lesson(0))
    assert network is not None
    assert settings.lr == 0.25
    assert trials[0]["micro_f1"] is None
    assert trials[-1]["micro_f1"] > 0.9


def test_running_away_every_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise DivergedError("Encountered NaN")

    monkeypatch.setattr(fasttext, "train", broken)
    with pytest.raises(DivergedError, match="every learning rate"):
        fasttext.tune(lesson(60))


FOOD, CARS = ["蛋糕", "好吃", "甜品", "奶油", "面包"], ["汽车", "发动机", "轮胎", "新能源", "车展"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with posts to train on, and a pipeline that looks at nothing."""
    enter(tmp_path, monkeypatch)
    sides = [(FOOD, "cake"), (CARS, "car")]
    lines = [
        f"{side}{row},今天{words[row % 5]}和{words[row * 3 % 5]}真不错,{tag}"
        for side, (words, tag) in enumerate(sides)
        for row in range(60)
    ]
    (tmp_path / "many.csv").write_text("post_id,text,tags\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "text.toml").write_text("stages = []\n")
    return tmp_path


def train_many(tagger: str, *more: str) -> Any:
    return ask(
        *("train", "many.csv", "-t", "tree.csv", "-o", "model", "--tagger", tagger, "-p", "text.toml"),
        *("--tune-seconds", "0", "--workers", "0", *more),
    )


def test_xmc_is_trained_tags_and_is_evaluated(folder: Path) -> None:
    done = train_many("xmc", "--memory", "4GB", "--json")
    assert done.exit_code == 0, done.output
    about = json.loads(done.stdout)
    assert (about["tagger"], about["valid"]["micro_f1"]) == ("xmc", 1.0)
    assert not (folder / "model" / "fast").exists()
    assert ask("tag", "posts.csv", "-m", "model", "-o", "out.parquet", "-q").exit_code == 0
    out = pq.read_table("out.parquet")
    assert [[tag["id"] for tag in tags] for tags in out["tags"].to_pylist()[:2]] == [["food", "cake"], ["car"]]
    assert set(out["route"].to_pylist()) == {"xmc"}
    report = ask("evaluate", "out.parquet", "posts.csv", "-t", "tree.csv", "--json")
    assert json.loads(report.stdout)["micro_f1"] == 1.0


@pytest.mark.parametrize(("route", "known"), [("fast", "rules, xmc"), ("cascade", "rules, xmc")])
def test_a_model_of_xmc_has_no_other_route(folder: Path, route: str, known: str) -> None:
    assert train_many("xmc").exit_code == 0
    refused = ask("tag", "posts.csv", "-m", "model", "-o", "out.csv", "--route", route)
    assert refused.exit_code == 2
    assert f"no route {route}; it has: {known}" in refused.stderr


def test_without_enough_memory_nothing_is_trained(folder: Path) -> None:
    refused = train_many("xmc", "--memory", "50MB")
    assert refused.exit_code == 2
    assert "--memory 0.05GB is too little; the least is: 11 posts of about" in refused.stderr
    assert not (folder / "model").exists()


@pytest.mark.parametrize(
    ("size", "said"), [("much", "expected a size"), ("-4GB", "expected a size"), ("0", "greater than 0")]
)
def test_a_memory_that_is_no_size_is_refused(folder: Path, size: str, said: str) -> None:
    refused = train_many("xmc", f"--memory={size}")
    assert refused.exit_code == 2
    assert said in refused.stderr


def test_memory_of_a_tagger_that_has_no_bound_is_refused(folder: Path) -> None:
    refused = train_many("fast", "--memory", "4GB")
    assert refused.exit_code == 2
    assert "give --tagger xmc, average or auto" in refused.stderr


@pytest.mark.parametrize("taken", slow_but(["linear", "fast+xmc"], ["fast", "linear", "xmc", "fast+xmc", "fast+linear+xmc"]))
def test_auto_keeps_what_it_took_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch, taken: str) -> None:
    monkeypatch.setattr(learners, "choose_candidate", lambda scores, worthwhile: taken)
    done = train_many("auto")
    assert done.exit_code == 0, done.output
    about = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))
    route = "average" if "+" in taken else taken
    assert about["tagger"] == route
    own = about["taggers"][route]
    assert set(own["tried"]) == {"fast", "linear", "xmc", "fast+linear", "fast+xmc", "linear+xmc", "fast+linear+xmc"}
    assert about["valid"] == own["valid"] == {name: own["tried"][taken][name] for name in ("micro_f1", "ece")}
    kept = {path.parent.name for path in (folder / "model").glob("*/*")}
    assert kept == {*taken.split("+"), route}
    assert ask("tag", "posts.csv", "-m", "model", "-o", "out.parquet", "-q").exit_code == 0
    assert set(pq.read_table("out.parquet")["route"].to_pylist()) == {route}
    for part in taken.split("+"):
        assert ask("tag", "posts.csv", "-m", "model", "-o", "part.parquet", "--route", part, "-q").exit_code == 0


def test_auto_leaves_out_what_would_need_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fasttext, "FAST_PACE", 1e-9)
    monkeypatch.setattr(learners, "PAIRS_A_SECOND", 1e-9)
    assert train_many("auto").exit_code == 0
    about = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))
    assert about["tagger"] == "xmc"
    assert set(about["taggers"]["xmc"]["tried"]) == {"xmc"}


@pytest.mark.parametrize("tagger", slow_but(["text"], ["linear", "text", "average"]))
def test_each_name_trains_and_answers(folder: Path, tagger: str) -> None:
    assert train_many(tagger).exit_code == 0
    assert ask("tag", "posts.csv", "-m", "model", "-o", "out.parquet", "-q").exit_code == 0
    out = pq.read_table("out.parquet")
    assert set(out["route"].to_pylist()) == {tagger}
    assert [[tag["id"] for tag in tags] for tags in out["tags"].to_pylist()[:2]] == [["food", "cake"], ["car"]]


def test_only_the_files_of_the_route_are_read(folder: Path) -> None:
    assert train_many("average").exit_code == 0
    about = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))
    first, second = next(iter(about["taggers"]["average"]["tried"])).split("+")[:2]
    for path in (folder / "model" / "average").iterdir():
        path.write_bytes(b"damaged")
    kept = [part for part in ("fast", "linear", "xmc") if (folder / "model" / part).exists()]
    assert {first, second} & set(kept)
    for part in kept:
        assert ask("tag", "posts.csv", "-m", "model", "-o", "part.parquet", "--route", part, "-q").exit_code == 0
    refused = ask("tag", "posts.csv", "-m", "model", "-o", "out.parquet", "-q")
    assert refused.exit_code == 2 and "found another file than was written" in refused.stderr


def test_a_model_of_an_older_format_says_to_train_again(folder: Path) -> None:
    assert train_many("linear").exit_code == 0
    place = folder / "model" / "model.json"
    place.write_text(place.read_text(encoding="utf-8").replace('"format": 2', '"format": 1'), encoding="utf-8")
    refused = ask("tag", "posts.csv", "-m", "model", "-o", "out.parquet", "-q")
    assert refused.exit_code == 2
    assert (
        refused.stderr.count("\n") == 1
        and "model format 1, expected 2; expected a part of the model that was trained: train again" in refused.stderr
    )
