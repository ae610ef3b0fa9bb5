"""Pretraining on posts without tags, balanced losses, further tasks, and networks that go on from a body."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import ask, slow_but
from fused_posts import (
    TREE,
    ask_onnx,
    draw_posts,
    kill_between_epochs,
    picture,
    place,
    quick,
    rows_of,
    said,
    table_of,
    teach,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.errors import ModelError, RequestError
from weibotag.features.post_batches import Features

torch = pytest.importorskip("torch", reason="networks are trained with torch")

NETWORKS = ("vl-bert", "visualbert", "vilbert", "lxmert", "b2t2", "fashionbert")
MARKS = {"text": 9_001, "print": 9_001, "words": 9_002}


def shorten(**others: Any) -> Any:
    from weibotag.training.network.pretraining import SETTINGS

    return replace(SETTINGS, **{"epochs": 2, "batch": 16, "width": 32, "lr": 4e-3, **others})


def rehearse(network: str, folder: Path, count: int = 120, **others: Any) -> Any:
    """Pretrain on a few posts."""
    from weibotag.training.network.pretraining import pretrain

    table = draw_posts(count, seed=1)
    if network == "fashionbert":
        table = add_patches(table)
    cut = count * 3 // 4
    return pretrain([table.slice(0, cut)], [table.slice(cut)], network, shorten(**others), place(folder))


def add_patches(table: pa.Table) -> pa.Table:
    """Return posts whose pictures have four patches that are like their vector."""
    rows = table["vectors"].to_pylist()
    for one in (one for row in rows for one in row):
        one["patches"] = [np.array(one["vector"], np.float16) + np.float16(at) for at in range(4)]
    place = table.column_names.index("vectors")
    return table.set_column(place, "vectors", pa.array(rows, table["vectors"].type))


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("body")
    rehearse("vl-bert", folder)
    return folder


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=7), st.integers(0, 99))
def test_weights_are_the_least_of_what_they_are_derived_from(norms: list[float], seed: int) -> None:
    from weibotag.training.network.loop import weigh

    def cost(weights: np.ndarray) -> float:
        apart = ((weights[:, None] - weights) ** 2).sum() / 4
        return float(apart - (weights**2 * shares).sum() / 2)

    shares = np.array(norms) / max(sum(norms), np.finfo(np.float64).tiny)
    weights = weigh(np.array(norms))
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)
    assert weights.max() / weights.min() <= len(norms) / (len(norms) - 1) + 1e-9
    assert (np.diff(weights[np.argsort(shares)]) >= -1e-12).all()
    draw = np.random.default_rng(seed)
    for other in (np.full(len(norms), 1 / len(norms)), *draw.dirichlet(np.ones(len(norms)), 5)):
        assert cost(weights) <= cost(other) + 1e-12
    nudge = draw.normal(size=len(norms)) * 1e-3
    assert cost(weights) <= cost(weights + nudge - nudge.mean()) + 1e-12


def test_one_loss_keeps_its_weight_and_several_are_balanced_by_what_they_share() -> None:
    from weibotag.training.network.loop import EVERY, Balance

    torch.manual_seed(0)
    shared, own = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    balance = Balance([*shared.parameters(), *own.parameters()])
    hidden = shared(torch.ones(2, 3))
    loss = hidden.square().sum()
    assert balance.total({"tags": loss}) == loss and balance.norms == {}
    assert balance.total({"tags": loss, "own": loss}) == 2 * loss and balance.norms == {}
    # What only one of the losses reaches does not count, however steep.
    losses = {"steep": 10 * loss, "flat": loss + 1e6 * own(hidden.detach()).sum()}
    total = balance.total(losses)
    assert balance.norms["steep"] == pytest.approx(100 * balance.norms["flat"], rel=1e-4)
    first, second = (100 / 101, 1 / 101)
    weights = np.array([1 / (2 - first), 1 / (2 - second)])
    expected = 2 * (weights / weights.sum()) @ [float(part.detach()) for part in losses.values()]
    assert float(total.detach()) == pytest.approx(expected, rel=1e-4)
    told = dict(balance.norms)
    balance.total({name: part * 3 for name, part in losses.items()})
    assert balance.norms == told and balance.steps == 2 < EVERY
    balance.total({**losses, "new": loss})
    assert balance.norms.keys() == {"steep", "flat", "new"}


def make_unlabelled(table: pa.Table) -> Any:
    from weibotag.training.network.pretraining import Unlabelled, cluster_vectors

    posts = Features.learn([draw_posts(60, seed=0)]).encode(table)
    return Unlabelled(posts, cluster_vectors(posts, posts)[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_masked_can_be_seen_nowhere_and_all_else_is_as_it_was(seed: int) -> None:
    unlabelled = make_unlabelled(draw_posts(40, seed=3))
    rows = np.arange(40)
    before = unlabelled.posts.batch(rows)
    batch, targets = unlabelled.spoil(rows, MARKS, np.random.default_rng(seed))
    match = targets["match"]
    kept = match != 0
    for name in ("text", "print", "words"):
        asked = targets[name] >= 0
        assert (batch[name][asked] == MARKS[name]).all() and (targets[name][asked] == before[name][asked]).all()
        untouched = kept[:, None] & ~asked
        assert np.array_equal(batch[name][untouched], before[name][untouched])
        assert not asked[match == 0].any()
    assert (targets["text"] >= 0).any()
    asked = targets["pictures"] >= 0
    assert not batch["pictures"][asked].any() and asked[kept].any()
    assert np.array_equal(targets["pictures"][asked], unlabelled.clusters["pictures"].pad(rows)[asked])
    # Where the text says what a picture says, the place of one would tell the other.
    for name, mentions in (("print", "print_mentions"), ("words", "word_mentions")):
        at = batch[mentions]
        assert not at[match >= 0].any() and not at[targets[name] >= 0].any()
        posts, places = np.nonzero(at)
        assert (targets["text"][posts, at[posts, places] - 1] < 0).all()
    # Other characters where some are masked: the network is told the very same.
    text = unlabelled.posts.parts["text"]
    values = text.values.copy()
    for row in np.flatnonzero(kept):
        values[text.offsets[row] + np.flatnonzero(targets["text"][row] >= 0)] += 1
    changed = replace(unlabelled.posts, parts=unlabelled.posts.parts | {"text": type(text)(text.offsets, values)})
    if len(np.unique(before["text"], axis=0)) == len(np.unique(changed.batch(rows)["text"], axis=0)):
        other = type(unlabelled)(changed, unlabelled.clusters)
        again, _ = other.spoil(rows, MARKS, np.random.default_rng(seed))
        assert all(np.array_equal(again[name], batch[name]) for name in batch if name != "pictures")


def test_pictures_are_swapped_only_between_posts_of_different_texts() -> None:
    rows = [{"text": text, "vectors": [picture(np.full(24, at))]} for at, text in enumerate("甲甲甲乙乙丙")]
    unlabelled = make_unlabelled(table_of([*rows, {"text": "无"}, {"vectors": [picture(np.ones(24))]}]))
    seen = set()
    for seed in range(60):
        batch, targets = unlabelled.spoil(np.arange(8), MARKS, np.random.default_rng(seed))
        for row, match in enumerate(targets["match"].tolist()):
            whole = (targets["pictures"][row] < 0).all()
            shown = [
                at
                for at in range(6)
                if np.allclose(batch["pictures"][row, 0], unlabelled.posts.batch(np.array([at]))["pictures"])
            ]
            assert row < 6 or match == -1
            if row < 6 and match == 0:
                assert rows[shown[0]]["text"] != rows[row]["text"]
            if row < 6 and match == 1 and whole:
                assert shown == [row]
            seen.add((row, match))
    assert {(row, match) for row in range(6) for match in (-1, 0, 1)} <= seen
    same = make_unlabelled(table_of([{"text": "分享图片", "vectors": [picture(np.ones(24))]}] * 4))
    assert (same.spoil(np.arange(4), MARKS, np.random.default_rng(0))[1]["match"] == -1).all()


@pytest.mark.parametrize("network", slow_but(["vl-bert"], NETWORKS))
def test_pretraining_learns_and_its_body_begins_a_training(network: str, tmp_path: Path) -> None:
    first = rehearse(network, tmp_path / "first", epochs=1)
    about = rehearse(network, tmp_path / "body", count=240, epochs=4)
    assert about.figures["likelihood"] > first.figures["likelihood"] > 0
    assert about.figures["characters_right"] > 0.3
    assert ("patches_right" in about.figures) == (network == "fashionbert")
    assert json.loads((tmp_path / "body" / "body.json").read_text(encoding="utf-8"))["shape"]["width"] == 32
    some = add_patches(draw_posts(80, seed=1)) if network == "fashionbert" else draw_posts(80, seed=1)
    batch = Features.load(tmp_path / "body").encode(some.slice(0, 9)).batch(np.arange(9))
    assert ask_onnx(tmp_path / "body" / "match.onnx", batch)["match"].shape == (9,)
    assert teach(network, tmp_path / "tagger", some, epochs=1, start=tmp_path / "body").micro_f1 > 0


def test_a_body_gives_all_it_knows_and_takes_in_new_words(body: Path) -> None:
    from safetensors.torch import load_file

    from weibotag.training.network.architectures.fusions import build
    from weibotag.training.network.architectures.network import Shape
    from weibotag.training.network.export import PretrainedNetwork

    own = PretrainedNetwork.load(body, "vl-bert", 32)
    new = table_of([{"text": "新字", "author": "新人", "wordings": [said("新词", "code")]}] * 2)
    features = own.widen(Features.learn([new]))
    lexicons, before = features.lexicons, own.features.lexicons
    assert lexicons["words"].words == (*before["words"].words, "code_新词")
    assert lexicons["authors"].words[-1] == "新人" and lexicons["characters"] == before["characters"]
    shape = Shape.of(features, TREE.parents, width=32)
    torch.manual_seed(0)
    network: Any = own.build(shape)
    torch.manual_seed(0)
    random: Any = build("vl-bert", replace(shape, buckets=own.buckets))
    fresh = random.words.words.weight.detach()
    weights = load_file(body / "body.safetensors")
    known = 1 + len(before["words"].words)
    table = network.words.words.weight.detach()
    assert torch.equal(table[:known], weights["words.words.weight"][:known])
    assert torch.equal(table[known], fresh[known])
    assert torch.equal(table[known + 1 :], weights["words.words.weight"][known:])
    assert not any(name.startswith("heads.") for name in weights)
    state = network.state_dict()
    grown = ("words.words.weight", "author.weight", "channel.weight")
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items() if name not in grown)
    old, now = (one.encode(draw_posts(20, seed=1)).batch(np.arange(20)) for one in (own.features, features))
    assert np.array_equal(old["text"], now["text"])


@pytest.mark.parametrize(
    ("network", "width", "said_so"),
    [("two-stream", 32, "asked for is format 2, network vilbert"), ("single-stream", 64, "width 32, asked for")],
)
def test_a_body_of_another_network_or_width_is_refused(network: str, width: int, said_so: str, body: Path) -> None:
    with pytest.raises(ModelError, match=said_so):
        teach(network, body.parent / "refused", draw_posts(40, seed=1), width=width, start=body)


def test_what_is_no_body_is_refused_and_so_is_a_network_that_is_not_pretrained(body: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a body"):
        teach("vl-bert", tmp_path / "a", draw_posts(40, seed=1), start=tmp_path)
    shutil.copytree(body, tmp_path / "cut")
    (tmp_path / "cut" / "body.safetensors").write_bytes((body / "body.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="expected a body"):
        teach("vl-bert", tmp_path / "a", draw_posts(40, seed=1), start=tmp_path / "cut")
    with pytest.raises(RequestError, match="'concat' to pretrain; there are: vl-bert"):
        rehearse("concat", tmp_path / "b")


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_pretraining as t
t.rehearse("vl-bert", Path(sys.argv[1]), epochs=6, patience=6)
"""


@pytest.mark.slow
def test_a_pretraining_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = rehearse("vl-bert", tmp_path / "whole", epochs=6, patience=6)
    assert kill_between_epochs(KILLED, tmp_path / "killed", 2) == 2
    again = rehearse("vl-bert", tmp_path / "killed", epochs=6, patience=6)
    assert replace(again, seconds=whole.seconds) == whole
    assert (tmp_path / "killed" / "body.safetensors").read_bytes() == (tmp_path / "whole" / "body.safetensors").read_bytes()


@pytest.mark.slow
def test_tasks_are_learnt_told_by_name_and_measured(tmp_path: Path) -> None:
    from weibotag.taggers.network import NetworkScorer
    from weibotag.training.dataset import NetworkOptions
    from weibotag.training.network.fit import train_fused

    def feel(table: pa.Table) -> list[str | None]:
        moods = ["好" if "猫" in text else "坏" for text in table["text"].to_pylist()]
        return [(None if at % 5 == 0 else "" if at % 5 == 1 else mood) for at, mood in enumerate(moods)]

    tables = draw_posts(400, seed=1), draw_posts(80, seed=2)
    moods = feel(tables[0]), [*feel(tables[1])[:-1], "怪"]
    sides = [rows_of(table.append_column("mood", pa.array(own))) for table, own in zip(tables, moods, strict=True)]
    options = NetworkOptions(tasks={"mood": "mood"})
    _, about = train_fused(*sides, TREE, options, quick(epochs=8), place(tmp_path / "work"))
    assert about.tasks["mood"].classes == 2 and (about.tasks["mood"].accuracy or 0) > 0.9
    (tmp_path / "copy").mkdir()
    NetworkScorer(TREE, tmp_path / "work").save(tmp_path / "copy")
    tagger = NetworkScorer(TREE, tmp_path / "copy")
    names, chances = tagger.answers(tables[1])["mood"]
    assert tagger.tasks == {"mood": ["坏", "好"]}
    right = [
        name == ("好" if "猫" in text else "坏") for name, text in zip(names, tables[1]["text"].to_pylist(), strict=True)
    ]
    assert np.mean(right) > 0.9
    assert chances.dtype == np.float32 and (chances >= 0.5).all() and (chances <= 1).all()
    assert tagger.answers(tables[1].slice(0, 0))["mood"][0] == []
    few = draw_posts(3, seed=3)
    for name, labels, said_so in (
        ("text", ["a", "b"], "can't be called so"),
        ("train", ["a", "b"], "can't be called so"),
        ("mood", ["a", None, "a"], "2 of the posts to train on have a class"),
    ):
        with pytest.raises(RequestError, match=said_so):
            wrong = rows_of(few.slice(0, len(labels)).append_column("label", pa.array(labels)))
            train_fused(wrong, wrong, TREE, NetworkOptions(tasks={name: "label"}), quick(), place(tmp_path / "no"))


def test_the_command_pretrains_on_posts_of_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIBOTAG_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    lines = [f"{at},{'今天的蛋糕真好吃' if at % 2 else '新买的汽车到了'}{at}" for at in range(40)]
    Path("posts.csv").write_text("\n".join(["post_id,text", *lines]), encoding="utf-8")
    done = ask("pretrain", "posts.csv", "-o", "body", "--epochs", "1", "--workers", "0", "--json", "-q")
    assert done.exit_code == 0, done.output
    about = json.loads(done.stdout)
    assert about["posts"] == {"train": 36, "valid": 4} and about["figures"]["likelihood"] > 0
    assert about["looked"]["pictures"]["files"] == 0
    names = {path.name for path in Path("body").iterdir()}
    assert names == {"body.json", "body.safetensors", "features.json", "features.safetensors", "losses.csv"}
    # No time at all is one epoch.
    again = ask("pretrain", "posts.csv", "-o", "body", "--minutes", "0", "--workers", "0", "--json", "-q")
    assert json.loads(again.stdout)["epochs"] == 1
    Path("other").mkdir()
    Path("other/file").touch()
    for words, said_so in (
        (["-o", "other"], "other: holds file, which would be lost"),
        (["-o", "new", "--network", "concat"], "no network 'concat' to pretrain"),
        (["-o", "new", "--limit", "1"], "1 posts to pretrain on"),
    ):
        failed = ask("pretrain", "posts.csv", *words, "--workers", "0", "-q")
        assert failed.exit_code == 2 and said_so in failed.stderr
