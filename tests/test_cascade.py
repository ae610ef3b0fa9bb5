"""The cascade: who answers, what a step brings, and what is looked at for a budget."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask, draw
from damaged_media import make
from hostile_posts import write_hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.errors import RequestError
from weibotag.core.schema import WORDING
from weibotag.scoring.decision import micro_f1
from weibotag.taggers.cascade.gains import Forest, benefit, expect_benefit
from weibotag.taggers.cascade.policy import choose_step, limit, number_of, stages_of, translate
from weibotag.taggers.cascade.policy import given as given_bits
from weibotag.taggers.cascade.simulation import Curve
from weibotag.workflows.plan import Budget

TREE = (
    "id,parent_id,name,aliases,keywords\nfood,,美食,,\ntea,food,茶,,\nmilk,food,牛奶,,\n"
    "pet,,宠物,,\ncat,pet,猫,,\ndog,pet,狗,,\n"
)
PIPELINE = 'stages = ["ocr", "embed"]\n'
PRINTS = {"tea": "GREEN TEA", "milk": "MILK", "cat": "CAT FOOD", "dog": "DOG BOX"}
TEXTS = {"tea": "泡茶喝", "milk": "牛奶一杯", "cat": "小猫睡了", "dog": "狗在跑"}


def write_posts(folder: Path) -> Path:
    """Write posts of which a third say nothing but in their picture, a third have both, and the rest have no picture."""
    (folder / "pictures").mkdir()
    rows = ["post_id,text,images,tags,split,mood"]
    for number in range(180):
        tag = list(TEXTS)[number % 4]
        kind = number // 4 % 3
        text = f"{'分享图片' if kind == 0 else TEXTS[tag]}{'啊吧呢'[number % 3]}"
        image = ""
        if kind < 2:
            image = f"pictures/{number}.png"
            colour = {"tea": "lightgreen", "milk": "white", "cat": "orange", "dog": "lightblue"}[tag]
            draw(folder / image, f"{PRINTS[tag]} {number}", colour=colour)
        split = ("train", "train", "valid", "test", "train")[number // 12 % 5]
        rows.append(f"{number},{text},{image},{tag},{split},{'glad' if tag in ('tea', 'cat') else 'calm'}")
    path = folder / "posts.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with posts, a store that knows their pictures, and a model with a cascade."""
    pytest.importorskip("torch", reason="training a network needs the extra torch")
    folder = tmp_path_factory.mktemp("cascade")
    write_posts(folder)
    (folder / "tree.csv").write_text(TREE, encoding="utf-8")
    (folder / "pipeline.toml").write_text(PIPELINE, encoding="utf-8")
    answer = ask(
        *("train", str(folder / "posts.csv"), "-t", str(folder / "tree.csv"), "-o", str(folder / "model")),
        *("-p", str(folder / "pipeline.toml"), "--store", str(folder / "store"), "--tagger", "cascade"),
        *("--where", "split = 'train'", "--valid", "split = 'valid'", "--tune-seconds", "0"),
        *("--task", "mood=mood", "--quiet", "--json"),
    )
    assert answer.exit_code == 0, answer.output
    return folder


def tag(world: Path, out: Path, *options: str) -> tuple[dict[str, Any], pa.Table]:
    """Tag the test posts; return the summary and the answer."""
    words = ("tag", str(world / "posts.csv"), "-m", str(world / "model"), "-o", str(out), "--where", "split = 'test'")
    answer = ask(*words, "--quiet", "--json", *options)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout), pq.read_table(out)


def score(world: Path, out: Path) -> float:
    words = ("evaluate", str(out), str(world / "posts.csv"), "-t", str(world / "tree.csv"), "--json")
    return json.loads(ask(*words, "--where", "split = 'test'").stdout)["micro_f1"]


def test_a_model_says_what_it_was_trained_for(world: Path) -> None:
    about = json.loads((world / "model" / "model.json").read_text(encoding="utf-8"))
    assert about["tagger"] == "cascade"
    assert about["cascade"]["everything"] > about["cascade"]["text"]
    assert set(about["cascade"]["prices"]) == {"text", "fast", "fused", "ocr", "embed"}
    assert about["taggers"]["fused"]["training"]["fused"]["tasks"]["mood"]["classes"] == 2


def test_pictures_are_looked_at_where_it_pays(world: Path, tmp_path: Path) -> None:
    summary, tagged = tag(world, tmp_path / "cascade.parquet", "--store", str(tmp_path / "empty"))
    routes = dict(zip(tagged["post_id"].to_pylist(), tagged["route"].to_pylist(), strict=True))
    # Those whose text says nothing.
    assert {int(number) // 4 % 3 for number, route in routes.items() if "+" in route} == {0}
    assert tagged["error"].null_count == len(tagged)
    assert sum(summary["routes"].values()) == summary["posts"] == len(tagged)
    assert summary["cascade"]["sample"] == {"posts": 0}
    text, _ = tag(world, tmp_path / "text.parquet", "--route", "text", "--store", str(tmp_path / "empty2"))
    assert text["frames_per_stage"] == {}
    assert score(world, tmp_path / "cascade.parquet") > score(world, tmp_path / "text.parquet")


def test_a_sample_tells_what_is_kept(world: Path, tmp_path: Path) -> None:
    words = ("tag", str(world / "posts.csv"), "-m", str(world / "model"), "-o", str(tmp_path / "out.parquet"))
    answer = ask(*words, "--store", str(world / "store"), "--quiet", "--json")
    sample = json.loads(answer.stdout)["cascade"]["sample"]
    assert sample["posts"] == 5
    assert -1 < sample["regret"] < 1 and {"text_alone", "kept"} < set(sample)


def test_what_the_store_knows_is_not_looked_at(world: Path, tmp_path: Path) -> None:
    tag(world, tmp_path / "first.parquet", "--route", "fused", "--store", str(world / "store"))
    summary, tagged = tag(world, tmp_path / "known.parquet", "--store", str(world / "store"))
    assert summary["pictures"]["reused"] == summary["pictures"]["files"] > 0
    assert summary["frames_per_stage"] == {}
    assert any(route.endswith("+ocr+embed") for route in tagged["route"].to_pylist())


@pytest.mark.parametrize("route", ["fast", "fused", "rules"])
def test_each_route_of_a_model_answers(world: Path, tmp_path: Path, route: str) -> None:
    summary, tagged = tag(world, tmp_path / "out.parquet", "--route", route, "--store", str(world / "store"))
    assert set(tagged["route"].to_pylist()) == {route}
    if route == "fused":
        told, moods = (tagged[name].to_pylist() for name in ("task_mood", "mood"))
        assert sum(one == other for one, other in zip(told, moods, strict=True)) > 0.6 * len(moods)
        assert all(0.5 <= score <= 1 for score in tagged["task_mood_score"].to_pylist())
    else:
        assert "task_mood" not in tagged.column_names
    assert summary["posts"] == 36


@pytest.mark.parametrize("route", ["fast", "cascade"])
def test_after_the_deadline_nothing_is_looked_at(world: Path, tmp_path: Path, route: str) -> None:
    options = ("--route", route, "--deadline", "0s", "--store", str(tmp_path / "none"))
    summary, tagged = tag(world, tmp_path / "late.parquet", *options)
    late = [name for name in tagged["route"].to_pylist() if name.endswith("+late")]
    assert summary["frames_per_stage"] == {}
    assert len(late) == 24 if route == "fast" else late
    assert tagged["error"].null_count == len(tagged)


def test_a_plan_is_kept(world: Path, tmp_path: Path) -> None:
    words = ("plan", str(world / "posts.csv"), "-m", str(world / "model"), "-o", str(tmp_path / "plan.json"))
    options = ("--store", str(tmp_path / "store"), "--sample", "10", "--quiet", "--plot", str(tmp_path / "plan.png"))
    answer = ask(*words, "--budget", "60s", *options, "--where", "split = 'test'")
    assert answer.exit_code == 0, answer.output
    assert "knee" in answer.stdout
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    seconds = [point["seconds"] for point in plan["curve"]]
    assert seconds == sorted(seconds)
    assert plan["posts"] == 36
    assert plan["posts_with_pictures"] == 24
    assert (tmp_path / "plan.png").stat().st_size > 1000
    summary, _ = tag(
        world, tmp_path / "out.parquet", "--plan", str(tmp_path / "plan.json"), "--store", str(tmp_path / "new")
    )
    assert sum(summary["seconds"].values()) < 66
    assert summary["cascade"]["waves"]


def test_plans_and_routes_that_do_not_fit_are_refused(world: Path, tmp_path: Path) -> None:
    base = ("tag", str(world / "posts.csv"), "-m", str(world / "model"), "-o", str(tmp_path / "out.csv"))
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    for options, said in (
        (("--plan", str(tmp_path / "plan.json")), "expected a plan"),
        (("--plan", str(tmp_path / "absent.json")), "can't be read"),
        (("--route", "fast", "--plan", str(tmp_path / "plan.json")), "is for route cascade"),
        (("--deadline", "soon"), "expected a time"),
        (("--deadline", "-5s"), "expected a time"),
        (("--reuse", "near"), "does not go with route cascade"),
    ):
        answer = ask(*base, *options)
        assert answer.exit_code == 2, answer.output
        assert said in str(answer.exception) + answer.output, options


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("5ms", 5), ("3x", 6), ("1.5s", 1.5), ("5", 5)]
)
def test_budgets_are_times_of_a_whole_run(text: str, seconds: float) -> None:
    assert Budget.parse(text).seconds(1000, 2.0) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "-3s", "nans", "infs", "0m", "5 apples"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected a time"):
        Budget.parse(text)


def words_table(kinds: list[list[str]], media: str | None = "m") -> pa.Table:
    rows = [
        [{"word": kind, "kind": kind, "score": 1.0, "count": 1, "media_id": media, "box": None} for kind in own]
        for own in kinds
    ]
    return pa.table({"wordings": pa.array(rows, pa.list_(WORDING))})


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["ocr", "object", "face", "code", "clip"]), max_size=6), max_size=5))
def test_a_limited_table_has_the_words_of_its_stages_alone(kinds: list[list[str]]) -> None:
    order = ("ocr", "embed", "detect")
    whole = words_table(kinds)
    allowed = {"ocr": {"ocr"}, "embed": {"code", "clip"}, "detect": {"object"}}
    for bits in range(8):
        stages = stages_of(bits, order)
        kept = set().union(*(allowed[stage] for stage in stages))
        found = [[one["kind"] for one in own] for own in limit(whole, stages)["wordings"].to_pylist()]
        assert found == [[kind for kind in own if kind in kept] for own in kinds]
        assert number_of(stages, order) == bits
        assert translate(np.array([bits]), order, order) == bits


def test_words_that_were_brought_along_count_as_looks() -> None:
    kinds = [["ocr"], [], ["object", "code"]]
    assert given_bits(words_table(kinds, media=None), ("ocr", "embed", "detect")).tolist() == [1, 0, 6]
    assert given_bits(words_table(kinds), ("ocr", "embed", "detect")).tolist() == [0, 0, 0]


@settings(deadline=None)
@given(st.data())
def test_the_answer_of_more_benefit_has_the_larger_micro_f1(data: st.DataObject) -> None:
    matrix = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=3, max_size=3)
    gold, first, second = (csr_matrix(np.array(data.draw(matrix), np.float32)) for _ in range(3))
    worth = micro_f1(first, gold)
    gain = benefit(second, gold, worth).sum() - benefit(first, gold, worth).sum()
    change = micro_f1(second, gold) - worth
    if abs(change) > 1e-9:
        assert np.sign(gain) == np.sign(change)


def test_benefit_is_expected_from_probabilities() -> None:
    chosen = csr_matrix(np.array([[0.9, 0.0], [0.6, 0.8]], np.float32))
    assert expect_benefit(chosen, 0.5) == pytest.approx([1.3, 1.8])


def test_a_forest_kept_as_arrays_predicts_what_the_library_does() -> None:
    from sklearn.ensemble import RandomForestRegressor

    from weibotag.taggers.cascade import gains

    draws = np.random.default_rng(0)
    rows = draws.normal(size=(300, 5)).astype(np.float32)
    targets = rows[:, 0] * (rows[:, 1] > 0)
    forest = Forest.fit(rows, targets, np.arange(300))
    theirs = RandomForestRegressor(gains.TREES, max_depth=gains.DEPTH, min_samples_leaf=5, max_features=0.5, random_state=0)
    assert forest.predict(rows) == pytest.approx(theirs.fit(rows, targets).predict(rows), abs=1e-5)
    few = Forest.fit(rows[:5], targets[:5], np.arange(5))
    assert few.predict(rows[:2]) == pytest.approx([targets[:5].mean()] * 2, abs=1e-6)
    assert Forest.fit(rows[:0], targets[:0], np.arange(0)).predict(rows[:1]) == pytest.approx([0])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 2))
def test_the_pick_brings_most_per_millisecond(seed: int, rate: float) -> None:
    draws = np.random.default_rng(seed)
    gains, costs = draws.normal(size=(20, 3)).astype(np.float32), draws.uniform(0.1, 5, size=(20, 3))
    bits = draws.integers(0, 8, size=20)
    for row, chosen in enumerate(choose_step(gains, costs, np.ones(3), bits, rate).stage.tolist()):
        open_ratios = [
            gains[row, place] / costs[row, place]
            for place in range(3)
            if not bits[row] >> place & 1 and gains[row, place] > 0
        ]
        if chosen < 0:
            assert all(ratio < rate for ratio in open_ratios)
        else:
            assert not bits[row] >> chosen & 1
            assert gains[row, chosen] / costs[row, chosen] == max(open_ratios) >= rate


def test_the_knee_lies_farthest_above_the_straight_line() -> None:
    curve = Curve(np.arange(5.0)[::-1], np.array([1, 2, 3, 11, 21.0]), np.array([0.5, 0.7, 0.8, 0.82, 0.81]))
    assert curve.best == 3
    assert curve.knee == 2
    assert curve.reach(2.5) == 2
    assert curve.reach(100) == 3
    assert curve.reach(0) == 0


def test_a_cascade_does_without_a_stage_that_can_not_run_here(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from weibotag.core.errors import MissingExtraError
    from weibotag.vision.ocr import Ocr

    def missing(*_: object) -> str:
        raise MissingExtraError("ocr", "paddle")

    monkeypatch.setattr(Ocr, "fingerprint", missing)
    base = ("tag", str(world / "posts.csv"), "-m", str(world / "model"), "--where", "split = 'test'")
    answer = ask(*base, "-o", str(tmp_path / "out.parquet"), "--store", str(tmp_path / "store"), "--quiet")
    assert answer.exit_code == 0, answer.output
    assert "the cascade does without ocr" in caplog.text
    routes = pq.read_table(tmp_path / "out.parquet")["route"].to_pylist()
    assert {stage for route in routes for stage in route.split("+")[1:]} == {"embed"}
    refused = ask(*base, "-o", str(tmp_path / "fast.parquet"), "--route", "fast")
    assert refused.exit_code == 2


@pytest.mark.slow
def test_given_words_are_read_for_nothing(world: Path, tmp_path: Path) -> None:
    """Posts of which the platform knows the print already need no look for it, and a column that is gone is named."""
    text = (world / "posts.csv").read_text(encoding="utf-8").splitlines()
    rows = [f"{text[0]},print"] + [f"{row},{PRINTS[row.split(',')[3]]}" for row in text[1:]]
    (tmp_path / "posts.csv").write_text("\n".join(rows).replace(",pictures/", ","), encoding="utf-8")
    words = ("--quiet", "--store", str(tmp_path / "store"), "--tune-seconds", "0", "--minutes", "0.05")
    train = ("train", str(tmp_path / "posts.csv"), "-t", str(world / "tree.csv"), "-o", str(tmp_path / "model"), *words)
    answer = ask(*train, "--tagger", "cascade", "--words", "ocr=print", "-p", str(world / "pipeline.toml"))
    assert answer.exit_code == 0, answer.output
    base = ("-m", str(tmp_path / "model"), "--quiet", "--store", str(tmp_path / "store"))
    answer = ask("tag", str(tmp_path / "posts.csv"), "-o", str(tmp_path / "out.parquet"), *base)
    assert answer.exit_code == 0, answer.output
    routes = set(pq.read_table(tmp_path / "out.parquet")["route"].to_pylist())
    assert routes <= {"linear+ocr", "fast+ocr", "fused+ocr"}
    answer = ask("tag", str(world / "posts.csv"), "-o", str(tmp_path / "bad.parquet"), *base)
    assert answer.exit_code == 2
    assert "have no column 'print'" in str(answer.exception) + answer.output


@pytest.mark.slow
def test_a_network_begins_from_pretraining_and_tells_similarity(world: Path, tmp_path: Path) -> None:
    looks = ("-p", str(world / "pipeline.toml"), "--store", str(world / "store"), "--quiet")
    posts, body = str(world / "posts.csv"), str(tmp_path / "body")
    answer = ask("pretrain", posts, "-o", body, "--network", "single-stream", "--epochs", "1", *looks)
    assert answer.exit_code == 0, answer.output
    answer = ask("similarity", posts, "-m", body, "-o", str(tmp_path / "out.parquet"), "--store", str(world / "store"), "-q")
    assert answer.exit_code == 0, answer.output
    told = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {row["similarity"] is None for row in told if int(row["post_id"]) // 4 % 3 == 2} == {True}
    assert all(0 <= row["similarity"] <= 1 for row in told if int(row["post_id"]) // 4 % 3 < 2)
    train = ("train", posts, "-t", str(world / "tree.csv"), *looks, "--tune-seconds", "0", "--minutes", "0", "--start", body)
    answer = ask(*train, "-o", str(tmp_path / "model"), "--tagger", "fused", "--network", "single-stream")
    assert answer.exit_code == 0, answer.output
    answer = ask(*train, "-o", str(tmp_path / "other"), "--tagger", "fused", "--network", "concat")
    assert answer.exit_code == 2
    answer = ask(*train, "-o", str(tmp_path / "other"))
    assert answer.exit_code == 2
    assert "give --tagger fused or cascade" in str(answer.exception) + answer.output


@pytest.mark.slow
def test_damaged_pictures_cost_the_cascade_only_themselves(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "posts"
    (folder / "media").mkdir(parents=True)
    names = [str(path.relative_to(folder)) for path in make(folder / "media", 60, seed=3)]
    rows = [f"m{number},分享图片{'啊吧呢'[number % 3]},{name}" for number, name in enumerate(names)]
    (folder / "damaged.csv").write_text("\n".join(["post_id,text,images", *rows, ""]), encoding="utf-8")
    write_hostile(folder / "hostile.csv", seed=5)
    words = ("tag", str(folder), "-m", str(world / "model"), "-o", str(tmp_path / "out.parquet"), "--json", "-q")
    answer = ask(*words, "--store", str(tmp_path / "store"))
    assert answer.exit_code == 0, answer.output
    summary = json.loads(answer.stdout)
    told = {row["post_id"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    assert summary["posts"] == len(told)
    assert {f"m{number}" for number in range(len(names))} <= set(told)
    routes = [told[f"m{number}"]["route"] for number in range(len(names))]
    assert any("+" in route for route in routes)
    reasons = [told[f"m{number}"]["error"] for number in range(len(names))]
    assert 5 < sum(reason is not None for reason in reasons) < len(names)
    assert not any("not looked at" in reason for reason in reasons if reason)


def test_what_can_not_be_done_is_said_before_any_work(world: Path, tmp_path: Path) -> None:
    posts, model, tree = str(world / "posts.csv"), str(world / "model"), str(world / "tree.csv")
    plan = ("plan", posts, "-m", model, "-o", str(tmp_path / "plan.json"))
    train = ("train", posts, "-t", tree, "-o", str(tmp_path / "new"), "--store", str(world / "store"), "-q")
    for words, said in (
        ((*plan, "--plot", str(tmp_path / "curve.gif")), "a plot is written as"),
        ((*plan, "--budget", "soon"), "--budget 'soon': expected a time"),
        (("pretrain", posts, "-o", str(tmp_path / "body"), "--network", "concat"), "no network 'concat' to pretrain"),
        ((*train, "--tagger", "fused", "--network", "nope"), "no network 'nope'"),
        ((*train, "--tagger", "fused", "--task", "mood=moood", "-p", str(world / "pipeline.toml")), "no column 'moood'"),
    ):
        answer = ask(*words)
        assert answer.exit_code == 2, answer.output
        assert said in str(answer.exception) + answer.output
        assert not (tmp_path / "plan.json.run").exists() and not (tmp_path / "body.run").exists()


def test_posts_without_pictures_go_the_cheap_way(world: Path, tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text("post_id,text\n1,泡茶喝\n2,\n3,小猫睡了\n", encoding="utf-8")
    base = (str(tmp_path / "posts.csv"), "-m", str(world / "model"), "--store", str(tmp_path / "store"), "-q")
    assert ask("plan", *base, "-o", str(tmp_path / "plan.json")).exit_code == 0
    answer = ask("tag", *base, "-o", str(tmp_path / "out.parquet"), "--plan", str(tmp_path / "plan.json"))
    assert answer.exit_code == 0, answer.output
    assert pq.read_table(tmp_path / "out.parquet")["post_id"].to_pylist() == ["1", "3"]
