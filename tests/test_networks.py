"""Networks that let text and pictures meet: in two streams, at the words that name what is seen, and patch by patch."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import slow_but
from fused_posts import (
    TREE,
    WIDTH,
    are_right,
    ask_onnx,
    ask_torch,
    build,
    cut_up,
    draw_posts,
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

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.files import write_json
from weibotag.features.dense_blocks import ABOUT, NOTHING
from weibotag.features.post_arrays import find_mention
from weibotag.features.post_batches import Features
from weibotag.taggers.network import NetworkScorer
from weibotag.training.dataset import WORTHWHILE, LearningOptions, Lesson, NetworkOptions
from weibotag.training.network.settings import ALIASES, NETWORKS, PRESETS, resolve

torch = pytest.importorskip("torch", reason="networks are trained with torch")


def answer(module: Any, posts: Any, rows: list[int]) -> np.ndarray:
    return ask_torch(module, posts.batch(np.array(rows)))["tags"]


def test_older_names_are_those_of_the_papers_and_others_are_refused() -> None:
    assert {resolve(name) for name in ALIASES} == {"vl-bert", "vilbert", "b2t2", "fashionbert"}
    assert all(resolve(name) == name for name in NETWORKS)
    assert len(set(PRESETS.values())) == len(PRESETS)
    with pytest.raises(RequestError, match="no network 'bert'; there are: concat, hma, sm-lstm, vl-bert"):
        resolve("bert")


@pytest.mark.parametrize("network", slow_but(["vl-bert", "lxmert"], PRESETS))
def test_each_preset_learns_in_a_few_steps_and_its_file_answers_as_torch_did(network: str, tmp_path: Path) -> None:
    first, last = (teach(network, tmp_path / str(epochs), draw_posts(160, seed=1), epochs=epochs) for epochs in (1, 5))
    assert 0 < first.micro_f1 < last.micro_f1 <= 1
    assert last.network == network and last.parameters > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("network", ("two-stream", "early"))
def test_each_network_learns_what_only_one_modality_or_both_together_say(network: str, tmp_path: Path) -> None:
    teach(network, tmp_path, draw_posts(480, seed=1), epochs=7)
    right = are_right(tmp_path, draw_posts(120, seed=2))
    shares = [float(right[branch::4].mean()) for branch in range(4)]
    assert min(shares) > 0.85, shares


@pytest.mark.parametrize("network", NETWORKS)
def test_onnx_agrees_with_torch_whatever_a_post_lacks_and_whoever_stands_beside_it(network: str, tmp_path: Path) -> None:
    from weibotag.training.network.export import export

    rows = [
        *draw_posts(3, seed=3).to_pylist(),
        {"text": "爱" * 500, "wordings": [said(f"字{at}", "ocr", [0] * 8) for at in range(300)]},
        {},
        {"wordings": [said("杯子", "object", [5, 5, 20, 20]), said("新", "strange kind")]},
        {"vectors": [picture(np.ones(WIDTH), str(at)) for at in range(12)] + [picture(None)]},
        {"vectors": [cut_up(np.ones(WIDTH), "a", [[1, 2], [2, 3]]), cut_up(np.ones(WIDTH), "b", [[4, 0]] * 20)]},
        {
            "text": "杯子里的茶，杯子",
            "wordings": [said("杯子", "object", [5, 5, 20, 20]), said("杯子里的", "ocr", [0] * 8), said("碗", "object")],
            "vectors": [cut_up(np.ones(WIDTH), "m", [[3, 2]])],
        },
        {"text": "无图", "author": "甲", "channel": "乙"},
    ]
    module, posts = build(network, table_of(rows), blocks=NOTHING.with_texts("use"))
    everyone = list(range(len(rows)))
    together = answer(module, posts, everyone)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(np.vstack([answer(module, posts, [at]) for at in everyone]), together, atol=1e-4)
    export(module, posts, tmp_path / "network.onnx")
    for some in (everyone, [1], [4], [4, 7, 3]):
        found = ask_onnx(tmp_path / "network.onnx", posts.batch(np.array(some)))
        np.testing.assert_allclose(found["tags"], together[some], atol=1e-3)
    # What a text means is read, and goes where the text goes.
    batch = posts.batch(np.array([0, 5]))
    silent = ask_torch(module, batch | {"meaning": np.zeros_like(batch["meaning"])})["tags"]
    assert np.abs(silent[0] - together[0]).max() > 1e-4 and np.allclose(silent[1], together[5], atol=1e-4)
    hidden = batch | {"text": np.zeros_like(batch["text"])}
    assert np.allclose(*(ask_torch(module, hidden | {"meaning": scale * batch["meaning"]})["tags"] for scale in (0, 1)))


def test_a_network_reads_what_texts_mean_where_that_brings_something(tmp_path: Path) -> None:
    from weibotag.training.network.fit import fit_fused

    options = LearningOptions(quiet=True, network=NetworkOptions(minutes=0.01), folder=tmp_path / "work")
    learnt = fit_fused(Lesson(rows_of(draw_posts(60, seed=1)), rows_of(draw_posts(40, seed=2)), TREE, options))
    reached, scorer = learnt.report["reached"], learnt.scorer.scorers["fused"]
    assert isinstance(reached, dict) and isinstance(scorer, NetworkScorer)
    gain = reached["texts"] - reached["n-grams"]
    assert bool(learnt.scorer.blocks) == (gain >= WORTHWHILE)


def test_a_network_that_reads_texts_is_kept_with_their_encoder(tmp_path: Path) -> None:
    blocks, (work, kept) = NOTHING.with_texts("use"), (tmp_path / name for name in ("work", "kept"))
    sides = rows_of(draw_posts(40, seed=1)), rows_of(draw_posts(20, seed=2))
    from weibotag.training.network.fit import train_fused

    scorer, _ = train_fused(*sides, TREE, NetworkOptions(), quick(epochs=1), place(work), blocks)
    kept.mkdir()
    scorer.save(kept)
    fresh = draw_posts(8, seed=3)
    assert (NetworkScorer.load(kept, TREE).raw_scores(fresh) != scorer.raw_scores(fresh)).nnz == 0
    write_json({"encoder": "use", "fingerprint": "0" * 12}, kept / ABOUT)
    with pytest.raises(ModelError, match="was trained on texts by use-000000000000, here it is"):
        NetworkScorer.load(kept, TREE)


def test_text_and_pictures_ask_each_other_in_two_streams() -> None:
    from weibotag.training.network.loop import to_tensors

    module, posts = build("two-stream", draw_posts(8, seed=5))

    batch = to_tensors(posts.batch(np.array([1])), torch.device("cpu"))
    with torch.inference_mode():
        plain, shown, told = (
            module.encode(batch | other)
            for other in ({}, {"pictures": batch["pictures"] + 1}, {"text": batch["text"].flip(1)})
        )
    assert list(plain.spans)[:2] == ["post", "text"]
    assert plain.spans["pictures"].stop == plain.tokens.shape[1] == plain.mask.shape[1]
    assert (plain.tokens[:, plain.spans["text"]] - shown.tokens[:, plain.spans["text"]]).abs().max() > 1e-4
    assert (plain.tokens[:, plain.spans["pictures"]] - told.tokens[:, plain.spans["pictures"]]).abs().max() > 1e-4


def test_what_a_text_mentions_moves_to_the_end_of_the_mention() -> None:
    from weibotag.training.network.loop import to_tensors

    row = {
        "text": "看这只小狗，买一送一",
        "wordings": [
            said("小狗", "object", [0, 0, 9, 9]),
            said("猫", "object"),
            said("买一送一！", "ocr"),
            said("买一", "ocr"),
        ],
        "vectors": [picture(np.ones(WIDTH), "other"), picture(np.arange(WIDTH), "m")],
    }
    module, posts = build("early", table_of([row]))
    batch = posts.batch(np.array([0]))
    assert batch["word_mentions"].tolist() == [[5, 0]]
    assert batch["word_pictures"].tolist() == [[2, 2]]
    assert batch["print_mentions"].tolist() == [[0] * 6 + [7, 8, 0]]
    still = {name: np.zeros_like(batch[name]) for name in ("word_mentions", "print_mentions")}
    with torch.inference_mode():
        moved, kept, unseen = (
            {**(sides := module.read(to_tensors(batch | other, torch.device("cpu"))))[0], **sides[1]}
            for other in ({}, still, {"seen": np.zeros_like(batch["seen"])})
        )
    changed = (moved["text"][0] - kept["text"][0])[0].abs().sum(1) > 1e-6
    assert np.flatnonzero(changed.numpy()).tolist() == [4, 6, 7]
    torch.testing.assert_close((moved["text"][0] - kept["text"][0])[0, 4], kept["words"][0][0, 0])
    assert moved["words"][1].tolist() == [[False, True]]
    assert moved["print"][1].tolist() == [[True] * 6 + [False, False, True]]
    assert not torch.equal(moved["text"][0][0, 4], unseen["text"][0][0, 4])


@given(st.text("ab猫狗1 ", max_size=8), st.text("ab猫狗1 ", min_size=1, max_size=3))
def test_a_mention_is_the_first_whole_word(text: str, word: str) -> None:
    end = find_mention(text, word)
    # What a regular expression calls a border, with letters, digits and Chinese as three kinds of their own.
    inside = (
        "".join(f"(?<![{kind}])" if word[0] in kind else "" for kind in ("ab", "1"))
        + re.escape(word)
        + "".join(f"(?![{kind}])" if word[-1] in kind else "" for kind in ("ab", "1"))
    )
    found = re.search(inside, text)
    assert end == (found.end() if found else 0)


def draw_grids(count: int, seed: int) -> Any:
    """Return posts whose tag is whether the first or the last of a picture's patches is the bright one."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        last = int(draw.integers(2))
        cells = draw.normal(size=(4, 6)) * 0.3
        cells[3 * last, 0] += 3
        rows.append({"vectors": [cut_up(np.ones(4), "m", list(cells))], "tags": [("看/红", "看/蓝")[last]]})
    return table_of(rows)


def test_patches_are_told_apart_by_their_order(tmp_path: Path) -> None:
    teach("patches", tmp_path, draw_grids(400, seed=1), epochs=8, missing=0.0)
    assert are_right(tmp_path, draw_grids(100, seed=2)).mean() > 0.95


def test_a_picture_with_patches_is_not_seen_as_a_whole_and_one_without_is() -> None:
    rows = [
        {"vectors": [cut_up(vector, "m", cells), cut_up(np.ones(4), "n", None)]}
        for vector in (np.zeros(4), np.array([1, 0, 2, 0]))
        for cells in ([[1, 2]] * 4, [[2, 1]] * 4, None)
    ]
    module, posts = build("patches", table_of(rows))
    first, other, whole, first_again, _, whole_again = answer(module, posts, list(range(6)))
    np.testing.assert_allclose(first, first_again, atol=1e-6)
    assert np.abs(first - other).max() > 1e-4
    assert np.abs(whole - whole_again).max() > 1e-4


def test_patches_are_kept_of_the_first_two_pictures() -> None:
    grid = [[float(at), 1.0] for at in range(20)]
    rows = [
        {},
        {
            "vectors": [
                cut_up(None, "x", grid),
                *(cut_up(np.ones(4), name, grid[:at]) for at, name in ((2, "a"), (20, "b"), (4, "c"))),
            ]
        },
    ]
    table = table_of(rows)
    features = Features.learn([table])
    batch = features.encode(table).batch(np.arange(2))
    assert batch["patch_cells"].tolist() == [[0] * 18, [1, 2, *range(17, 33)]]
    standard = features.standards["patches"]
    kept = batch["patches"][1] * standard.scale + standard.mean
    np.testing.assert_allclose(kept[:, 0], [0, 1, *range(16)], atol=1e-4)
    assert not batch["patches"][0].any()
    with pytest.raises(ModelError, match="patches of pictures have 3 numbers, the model was trained on 2"):
        features.encode(table_of([{"vectors": [cut_up(np.ones(4), "m", [[1, 2, 3]])]}]))
