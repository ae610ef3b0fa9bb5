"""Whether text and pictures belong together: what is learnt of it, what steps look at, and what the command says."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask, enter
from fused_posts import (
    WIDTH,
    ask_onnx,
    build,
    draw_posts,
    measure_probabilities,
    picture,
    place,
    quick,
    rows_of,
    said,
    table_of,
    teach,
)
from hypothesis import given
from hypothesis import strategies as st

from weibotag.core.errors import RequestError
from weibotag.features.post_batches import Features
from weibotag.taggers.network import Matcher, find_pairs
from weibotag.workflows.run_stage import list_similarity, note_looks

torch = pytest.importorskip("torch", reason="networks are trained with torch")

EXAMPLES = Path(__file__).parents[1] / "examples"
THEMES = "猫狗车花茶书海山"
SPREAD = "今天我们去看了一个很好的东西大家都说不错"
STEPS = 3
SIDE = ("attention_print", "attention_words", "attention_pictures")


def draw_themes(count: int, seed: int) -> pa.Table:
    """Return posts with one word of their theme among others, and a picture, or print, of it among other pictures."""
    draw = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(len(THEMES), WIDTH))
    rows = []
    for at in range(count):
        theme = int(draw.integers(len(THEMES)))
        characters = [SPREAD[place] for place in draw.integers(len(SPREAD), size=10)]
        characters[int(draw.integers(10))] = THEMES[theme]
        vectors = [draw.normal(size=WIDTH) for _ in range(int(draw.integers(3)))]
        shown = [said(f"{THEMES[theme]}子", "ocr")] if at % 3 == 0 else []
        if not shown:
            vectors.insert(int(draw.integers(len(vectors) + 1)), 2 * directions[theme] + draw.normal(size=WIDTH))
        rows.append(
            {
                "text": "".join(characters),
                "vectors": [picture(vector, str(number)) for number, vector in enumerate(vectors)],
                "wordings": shown,
            }
        )
    return table_of(rows)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from weibotag.training.network.pretraining import pretrain

    folder = tmp_path_factory.mktemp("taught")
    settings = quick(epochs=12, batch=32)
    pretrain([draw_themes(480, 1)], [draw_themes(160, 2)], "sm-lstm", settings, place(folder))
    about = json.loads((folder / "match.json").read_text())
    (folder / "match.json").write_text(json.dumps(about | {"stages": {}, "fingerprints": {}, "media": {}}))
    return folder


def swap(table: pa.Table) -> pa.Table:
    """Return posts, each with what the pictures of the next say."""
    turned = table.take([*range(1, len(table)), 0])
    for name in ("wordings", "vectors"):
        table = table.set_column(table.column_names.index(name), name, turned[name])
    return table


def test_true_pairs_are_told_from_others_and_probabilities_mean_something(taught: Path) -> None:
    from sklearn.metrics import roc_auc_score

    matcher, fresh = Matcher(taught), draw_themes(240, 3)
    true, torn = matcher.measure(fresh), matcher.measure(swap(fresh))
    is_true = np.repeat([True, False], len(fresh))
    told = np.concatenate([true, torn])
    assert ((told >= 0) & (told <= 1)).all()
    # An eighth of the torn pairs share a theme by chance.
    assert roc_auc_score(is_true, told) > 0.85
    assert json.loads((taught / "match.json").read_text())["auc"] > 0.85
    sure = told > 0.5
    assert abs(told[sure].mean() - is_true[sure].mean()) < 0.1
    np.testing.assert_allclose(matcher.measure(fresh.slice(7, 1)), true[7:8], atol=1e-4)


def test_the_steps_name_the_word_and_the_picture_that_they_looked_at(taught: Path) -> None:
    table = draw_themes(90, 4)
    found = ask_onnx(taught / "match.onnx", Features.load(taught).encode(table).batch(np.arange(90)))
    words, pictures = found["attention_text"], found["attention_pictures"]
    assert words.shape == (90, STEPS, 10)
    looked = words.max(axis=1).argmax(axis=1)
    themed = [max(map(text.find, THEMES)) for text in table["text"].to_pylist()]
    # A character is in the n-grams of the two after it, too.
    assert np.mean([0 <= place - theme <= 2 for place, theme in zip(looked, themed, strict=True)]) > 0.7
    shown = np.arange(90) % 3 > 0
    assert pictures[shown].sum(axis=2).mean() > 0.9


def test_attention_is_over_what_is_there_and_an_empty_side_gets_none() -> None:
    from weibotag.training.network.loop import to_tensors

    rows: list[dict[str, Any]] = [
        {"text": "猫", "vectors": [picture(np.ones(WIDTH), "a")]},
        {"text": "一只很长的猫和一只狗", "vectors": [picture(np.ones(WIDTH), str(at)) for at in range(3)]},
        {"text": "只有文字"},
        {"wordings": [said("杯子", "object"), said("茶", "ocr")]},
        {},
    ]
    module, posts = build("sm-lstm", table_of(rows), width=16)
    batch = posts.batch(np.arange(len(rows)))
    with torch.inference_mode():
        answer = module(to_tensors(batch, torch.device("cpu")))
    assert all(torch.isfinite(told).all() for told in answer.values())
    text = answer["attention_text"].numpy()
    regions = np.concatenate([answer[name].numpy() for name in SIDE], axis=2)
    there = np.concatenate([batch["print"] > 0, batch["words"] > 0, batch["seen"]], axis=1)
    for attention, mask in ((text, batch["text"] > 0), (regions, there)):
        assert attention.shape == (len(rows), STEPS, mask.shape[1])
        assert not attention[np.broadcast_to(~mask[:, None], attention.shape)].any()
        np.testing.assert_allclose(attention.sum(axis=2), np.repeat(mask.any(axis=1)[:, None], STEPS, axis=1), atol=1e-5)
    for at in range(len(rows)):
        with torch.inference_mode():
            alone = module(to_tensors(posts.batch(np.array([at])), torch.device("cpu")))
        np.testing.assert_allclose(alone["match"][0], answer["match"][at], atol=1e-5)


@pytest.mark.slow
def test_it_tags_as_other_networks_do(tmp_path: Path) -> None:
    teach("sm-lstm", tmp_path, draw_posts(480, seed=1))
    fresh = draw_posts(120, seed=2)
    scores = measure_probabilities(tmp_path, draw_posts(160, seed=3), fresh)
    right = (scores >= 0.5) == (rows_of(fresh).gold.toarray() > 0)
    assert min(right[branch::4].all(axis=1).mean() for branch in range(4)) > 0.85


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40).filter(lambda keys: len(set(keys)) > 1), st.integers(1, 4))
def test_nobody_is_given_a_partner_with_the_same_text(keys: list[int], count: int) -> None:
    from weibotag.training.network.matching import draw_partners

    numbers = torch.tensor(keys)
    drawn = draw_partners(numbers, count, torch.Generator().manual_seed(0))
    assert drawn.shape == (len(keys), count)
    assert (numbers[drawn] != numbers[:, None]).all()


def test_a_pair_of_two_posts_has_the_text_of_one_and_all_that_the_pictures_of_the_other_say() -> None:
    from weibotag.training.network.matching import PICTURE_SIDE, Pairs

    table = pa.concat_tables([table_of([{"text": "没有图"}, {"vectors": [picture(np.ones(WIDTH))]}]), draw_themes(6, 5)])
    posts = Features.learn([table]).encode(table)
    assert find_pairs(posts).tolist() == [False, False] + [True] * 6
    pairs = Pairs.of(posts)
    one, other = (posts.batch(np.array([row])) for row in (2, 5))
    mixed = pairs.batch(np.array([0]), np.array([3]), torch.device("cpu"))
    # A new input is to be put on one of the sides.
    shown = ["print", "print_boxes", "words", "word_kinds", "word_boxes", "pictures", "seen"]
    shown += ["print_mentions", "word_mentions", "word_pictures", "patches", "patch_cells"]
    assert set(shown) == set(PICTURE_SIDE)
    for name in mixed:
        assert torch.equal(mixed[name], torch.from_numpy((other if name in shown else one)[name]))


@pytest.mark.parametrize(
    ("network", "rows", "told"),
    [
        ("sm-lstm", [{"text": "分享图片", "vectors": [picture(np.ones(WIDTH))]}] * 8, "8 of 8 posts .* 1 different texts"),
        ("sm-lstm", [{"text": "一"}, {"text": "二"}], "0 of 2 posts"),
        ("concat", [], "no network 'concat' to pretrain"),
    ],
)
def test_what_makes_no_pairs_is_told_in_one_line(network: str, rows: Any, told: str, tmp_path: Path) -> None:
    from weibotag.training.network.pretraining import pretrain

    with pytest.raises(RequestError, match=told) as caught:
        pretrain([table_of(rows)], [table_of(rows)], network, quick(), place(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_separates_nothing_gives_a_half(tmp_path: Path) -> None:
    from weibotag.training.network.matching import AnswerMatch, export_match

    module, posts = build("sm-lstm", draw_themes(60, 6), width=16)
    for weights in (module.match[-1].weight, module.gain):
        torch.nn.init.zeros_(weights)
    export_match(AnswerMatch(module), posts, posts, tmp_path)
    about = json.loads((tmp_path / "match.json").read_text())
    assert (about["slope"], about["offset"], about["auc"]) == (0, 0, 0.5)


def test_a_row_says_why_there_is_no_similarity() -> None:
    table = table_of([{"text": "有"}, {"text": ""}, {"text": "有"}, {"text": "有"}])
    lists = [["a.jpg"], ["a.jpg"], [], ["b.jpg"]]
    table = table.append_column("images", pa.array(lists)).append_column("videos", pa.array([[]] * 4, pa.list_(pa.string())))
    table = table.append_column("wordings_error", pa.array(["b.jpg: gone", None, None, "b.jpg: gone"]))
    rows = list_similarity(table, lambda _: np.array([0.25, np.nan, np.nan, np.nan])).to_pylist()
    assert rows[0] == {"post_id": "0", "similarity": 0.25, "error": "b.jpg: gone"}
    assert [row["similarity"] for row in rows[1:]] == [None] * 3
    assert [row["error"] for row in rows[1:]] == ["no text", "no picture", "no picture that says anything: b.jpg: gone"]


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with look.toml, a store, and a body that was trained for an epoch on the examples."""
    from weibotag.extraction.context import open_context
    from weibotag.extraction.ingest import ingest, link
    from weibotag.extraction.pipeline_files import read_pipeline
    from weibotag.extraction.post_table import read_part
    from weibotag.extraction.schedule import look
    from weibotag.posts.source import PostsSource
    from weibotag.runtime.run_folder import Run
    from weibotag.training.network.pretraining import pretrain

    folder = tmp_path_factory.mktemp("body")
    (folder / "look.toml").write_text('stages = ["embed"]\n')
    context = open_context(read_pipeline(str(folder / "look.toml")), folder / "store", workers=0, quiet=True)
    with Run.open(folder / "learn.run", {}) as run:
        parts = ingest(run, PostsSource(str(EXAMPLES / "posts.csv"), where="len(images) > 0", limit=40), None, True)
        link(run, parts, context)
        look(run, parts, context)
        assert context.stats.faults == {}
        tables = [table for part in parts for table in read_part(run, part, context, None, with_vectors=True)]
    pretrain(tables, tables, "sm-lstm", quick(epochs=1), place(folder / "body"))
    note_looks(folder / "body", context)
    return folder


def test_the_command_says_it_of_each_post(body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    source = (EXAMPLES / "new_posts.csv").read_text(encoding="utf-8").splitlines()
    lines = [f"{source[0]},likes", *(f"{line},{number}" for number, line in enumerate(source[1:]))]
    Path("new.csv").write_text("\n".join(lines).replace("images/", f"{EXAMPLES}/images/"), encoding="utf-8")
    words = ["similarity", "new.csv", "-m", str(body / "body"), "--store", str(body / "store")]
    words += ["--media-root", str(EXAMPLES)]
    result = ask(*words, "-o", "out.csv", "--workers", "0", "-q")
    assert result.exit_code == 0, result.output
    with Path("new.csv").open(encoding="utf-8") as file:
        posts = list(csv.DictReader(file))
    with Path("out.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["post_id"] for row in rows] == [post["post_id"] for post in posts]
    assert list(rows[0]) == ["post_id", "similarity", "error", "likes"]
    for row, post in zip(rows, posts, strict=True):
        assert row["likes"] == post["likes"]
        shown = post["images"] and (EXAMPLES / post["images"]).is_file()
        assert bool(row["similarity"]) == bool(post["text"] and shown)
        assert not row["similarity"] or 0 <= float(row["similarity"]) <= 1
        reason = "no text" if not post["text"] else "no picture that says anything" if post["images"] else "no picture"
        assert row["error"].startswith("" if row["similarity"] else reason)
    assert ask(*words, "-o", "out.parquet", "-q").exit_code == 0
    again = pq.read_table("out.parquet")
    assert again.schema.names[:3] == ["post_id", "similarity", "error"]
    told = [float(row["similarity"]) for row in rows if row["similarity"]]
    np.testing.assert_allclose(again["similarity"].drop_null().to_numpy(), told, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "none"], "none/match.json: can't be read"),
        (["-m", "BODY", "-p", "faces.toml"], "was trained on embed-"),
        (["-m", "BODY", "-p", "media.toml"], "was trained with"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    body: Path, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    Path("faces.toml").write_text('stages = ["faces"]\n')
    Path("media.toml").write_text('stages = ["embed"]\n[media]\nmax_frames = 2\n')
    words = [str(body / "body") if word == "BODY" else word for word in words]
    result = ask("similarity", "posts.csv", "-o", "out.csv", "--workers", "0", *words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
