"""`weibotag compare`: each tagger's figures are those that training, tagging and evaluating it by itself give."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import ask, enter
from PIL import Image
from scipy.sparse import csr_matrix

from weibotag.extraction.ingest import ingest
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import Run
from weibotag.taxonomy.tree import load
from weibotag.training.dataset import draw_sides
from weibotag.workflows.compare import Contender, time_taggers

SAID = {"cake": "蛋糕和甜品真好吃", "car": "新买的汽车上路了"}
SETTINGS = ["--minutes", "0", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a tree and 90 posts: 60 with text, 20 of them about two things, and 30 with a picture."""
    enter(tmp_path, monkeypatch)
    rows = []
    for at in range(90):
        tag, split = ("cake", "car")[at % 2], ("train", "train", "valid", "test", "train")[at // 2 % 5]
        text = "爱了爱了" if at >= 60 else SAID[tag] if at % 3 else f"{SAID[tag][:4]}还是{SAID[('car', 'cake')[at % 2]][:4]}"
        rows.append([f"p{at}", text, f"{tag}{at}.png" if at >= 60 else "", "美食" if at % 7 else "", tag, split])
        if at >= 60:
            # Fine grain or broad stripes, which any picture vector tells.
            shade = np.arange(96) % (8 if tag == "cake" else 48) * 5 + at
            Image.fromarray(np.tile(shade.astype(np.uint8), (96, 1))).convert("RGB").save(tmp_path / f"{tag}{at}.png")
    for name, some in (("labelled", rows), ("plain", rows[:60])):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["post_id", "text", "images", "channel", "tags", "split"], *some])
    (tmp_path / "vectors.toml").write_text('stages = ["embed"]\n[workers]\ncount = 0\n')
    return tmp_path


def compare(posts: str, *words: str) -> Any:
    given = ["--valid", "split = 'valid'", "--test", "split = 'test'", "-p", "vectors.toml", *SETTINGS, "--json"]
    result = ask("compare", posts, "-t", "tree.csv", *given, *words)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def measure(out: str, where: str) -> Any:
    result = ask("evaluate", out, "labelled.csv", "-t", "tree.csv", "--where", where, "--json")
    return json.loads(result.stdout)


def test_figures_are_those_of_each_tagger_by_itself(folder: Path) -> None:
    report = compare("labelled.csv", "--taggers", "rules,fast,text")
    assert report["posts"] == {"train": 54, "valid": 18, "test": 18}
    given = ["-t", "tree.csv", "--where", "split = 'train'", "--valid", "split = 'valid'", "-p", "vectors.toml"]
    assert (
        ask("train", "labelled.csv", *given, "-o", "model", "--tagger", "fast", "--tune-seconds", "0", "--quiet").exit_code
        == 0
    )
    lines = (folder / "labelled.csv").read_text(encoding="utf-8").replace(",channel,", ",unsaid,")
    (folder / "unsaid.csv").write_text(lines, encoding="utf-8")
    for tagger, by in (("rules", ["-t", "tree.csv"]), ("fast", ["-m", "model"])):
        for posts in ("labelled", "unsaid"):
            out = f"{tagger}-{posts}.parquet"
            assert ask("tag", f"{posts}.csv", *by, "-p", "vectors.toml", "-o", out, "-q").exit_code == 0
        own, out = report["taggers"][tagger], f"{tagger}-labelled.parquet"
        alone = measure(out, "split = 'test'")
        for name in ("micro_f1", "macro_f1", "leaf_p_at_1", "ece"):
            assert own[name] == pytest.approx(alone[name], abs=1e-6)
        for name, where in (("pictures", "len(images) > 0"), ("text_only", "len(images) = 0")):
            alone = measure(out, f"split = 'test' AND {where}")
            assert own[f"micro_f1_{name}"] == pytest.approx(alone["micro_f1"])
        alone = measure(f"{tagger}-unsaid.parquet", "split = 'test'")
        assert own["micro_f1_no_channel"] == pytest.approx(alone["micro_f1"])
    assert all(own["microseconds"] > 0 for own in report["taggers"].values())
    assert report["taggers"]["rules"]["parameters"] == 0 < report["taggers"]["text"]["parameters"]


def test_all_that_needs_no_torch_is_compared_from_one_reading(folder: Path) -> None:
    names = ["linear", "xmc", "average", "auto"]
    report = compare("plain.csv", "--taggers", ",".join(names))
    assert list(report["taggers"]) == names
    assert all(own["micro_f1"] > 0.5 and own["parameters"] > 0 for own in report["taggers"].values())


def test_the_table_the_files_and_json_say_the_same(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib")
    report = compare("plain.csv", "--taggers", "rules,fast", "-o", "figures")
    written = {path.name for path in (folder / "figures").iterdir()}
    assert written == {"compare.md", "compare.csv", "compare.png", "compare.svg"}
    with (folder / "figures" / "compare.csv").open(encoding="utf-8", newline="") as file:
        rows = {row.pop("tagger"): row for row in csv.DictReader(file)}
    assert rows == {
        name: {key: "" if value is None else str(value) for key, value in own.items()}
        for name, own in report["taggers"].items()
    }
    markdown = (folder / "figures" / "compare.md").read_text(encoding="utf-8").splitlines()
    for name, own in report["taggers"].items():
        cells = next(line for line in markdown if line.startswith(f"| {name} ")).strip("| ").split(" | ")
        assert [cell.strip() for cell in cells[1:4]] == [f"{own['micro_f1']:.3f}", "-", f"{own['micro_f1_text_only']:.3f}"]
        assert cells[-1].strip() == f"{own['parameters']:,}"
    left = {path.suffix for path in (folder / "figures.run").rglob("*") if path.is_file()}
    assert left == {"", ".json", ".csv"}


def test_the_table_is_what_stdout_gets(folder: Path) -> None:
    result = ask("compare", "plain.csv", "-t", "tree.csv", "--taggers", "rules", *SETTINGS)
    head, rule, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines())
    assert head[:2] == ["tagger", "micro-F1"] and set("".join(rule)) == {"-", ":"}
    assert row[0] == "rules" and row[-1] == "0"
    assert len({len(line) for line in result.stdout.splitlines()}) == 1


def test_networks_are_compared_with_the_others(folder: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    report = compare("labelled.csv", "--taggers", "concat,rules", "--seed", "3", "--minutes", "1e-9")
    assert list(report["taggers"]) == ["concat", "rules"]
    network = report["taggers"]["concat"]
    assert network["parameters"] > 1000
    assert 0 < network["micro_f1_pictures"] <= 1 and 0 < network["micro_f1_text_only"] <= 1


@pytest.mark.slow
def test_the_cascade_is_compared_where_all_is_known(folder: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    report = compare("labelled.csv", "--taggers", "cascade,fused", "--minutes", "1e-9")
    assert list(report["taggers"]) == ["cascade", "fused"]
    assert all(own["micro_f1"] > 0 for own in report["taggers"].values())
    assert report["taggers"]["cascade"]["parameters"] > report["taggers"]["fused"]["parameters"]


def test_what_can_not_be_trained_is_said_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = ["compare", "labelled.csv", "-t", "tree.csv", "-o", "figures"]
    result = ask(*given)
    assert (result.exit_code, result.stderr) == (2, "error: drawing a plot needs: pip install 'weibotag[plot]'\n")
    for name in [name for name in sys.modules if name.startswith("weibotag.training.network.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = ask(*given, "--taggers", "rules,hma")
    assert (result.exit_code, result.stderr) == (2, "error: training the hma tagger needs: pip install 'weibotag[torch]'\n")
    assert not list(folder.glob("figures/*"))


def test_a_name_that_is_not_there_is_an_error_that_names_those_that_are(folder: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    result = ask("compare", "labelled.csv", "-t", "tree.csv", "--taggers", "fast,hmm")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: no tagger 'hmm'; there are: rules, fast, linear, xmc, text, average, auto, fused, cascade, concat, hma"
    )
    assert ask("compare", "labelled.csv", "-t", "tree.csv", "--taggers", " , ").stderr.startswith(
        "error: no tagger is named"
    )


@pytest.mark.parametrize("named", [{}, {"valid": "split = 'valid'"}, {"test": "split = 'test'"}])
def test_sides_are_drawn_by_the_ids(named: dict[str, str], folder: Path) -> None:
    tree = load(Path("tree.csv"))
    given = {"valid": None, "test": None, **named}
    drawn = []
    for number in range(2):
        lines = Path("labelled.csv").read_text(encoding="utf-8").splitlines()
        Path("turned.csv").write_text("\n".join([lines[0], *lines[1:][:: 1 - 2 * number]]), encoding="utf-8")
        with Run.open(folder / f"{number}.run", {}) as run:
            parts = ingest(run, PostsSource("turned.csv"), None, True)
            is_held, tested = draw_sides(run, parts, tree, **given)
            drawn.append(set(tested.to_pylist()))
    # The order of the file changes nothing.
    assert drawn[0] == drawn[1]
    held = int(sum(marks.sum() for marks in is_held.values()))
    assert len(drawn[0]) == pytest.approx(0.19 * 72 if "valid" in named else 18, abs=2)
    assert held - len(drawn[0]) == pytest.approx(18 if "valid" in named else 7, abs=1)
    cakes = sum(int(post_id[1:]) % 2 == 0 for post_id in drawn[0])
    assert cakes == pytest.approx(len(drawn[0]) / 2, abs=1)


def test_nothing_to_train_choose_or_test_on_is_an_error(folder: Path) -> None:
    result = ask("compare", "labelled.csv", "-t", "tree.csv", "--test", "split = 'nowhere'", *SETTINGS)
    assert result.exit_code == 2
    assert "0 to test on (split = 'nowhere'); all must be above 0" in result.stderr


def test_taggers_take_turns_on_some_of_the_posts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weibotag.workflows.compare.TIMED", 10)
    asked: list[tuple[str, int]] = []

    def listen(name: str) -> Callable[[pa.Table], csr_matrix]:
        def answer(table: pa.Table) -> csr_matrix:
            asked.append((name, len(table)))
            return csr_matrix((len(table), 1))

        return answer

    contenders = {name: Contender(listen(name), 0.0, 0) for name in "ab"}
    spent = time_taggers(contenders, [pa.table({"post_id": [str(at) for at in range(95)]})])
    assert set(spent) == {"a", "b"}
    assert asked == [("a", 11), ("b", 11)] * (len(asked) // 2) and len(asked) > 4
