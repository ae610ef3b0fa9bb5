"""Vectors of texts and pictures beside the n-grams of a linear tagger."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from weibotag.core.errors import ModelError
from weibotag.core.files import write_json
from weibotag.features import dense_blocks
from weibotag.features.dense_blocks import ABOUT, NOTHING, DenseBlocks, encode_kept, mean_pictures
from weibotag.features.post_arrays import PICTURE
from weibotag.features.text_vectors import WIDTH, UseEncoder, open_encoder
from weibotag.taggers.linear import LinearScorer, train_linear
from weibotag.taggers.linear_tree import XmcScorer
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.training.cascade_tagger import time_each
from weibotag.training.dataset import Dataset, Learner, LearningOptions, Lesson, gold_matrix
from weibotag.training.learners import fit_linear, fit_xmc
from weibotag.training.linear_tree import train_xmc
from weibotag.vision.registry import MOST_CHARACTERS

TREE = Taxonomy([Tag(name, None, name, (), (), line) for line, name in enumerate(("车", "吃"), start=2)])
CARS = ["新提的轿车", "SUV试驾", "发动机异响", "电动车续航", "driving my new car", "倒车入库"]
MEALS = ["火锅真香", "今天吃烤鱼", "奶茶第二杯半价", "a tasty cake", "煮了一碗面", "烧烤配啤酒"]


def posts(texts: list[str], vectors: list[list[np.ndarray | None]] | None = None) -> pa.Table:
    blank = [""] * len(texts)
    columns = {"post_id": [str(at) for at in range(len(texts))], "text": texts, "author": blank, "channel": blank}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    if vectors is None:
        return table
    rows = [
        [{"media_id": f"m{at}", "vector": None if one is None else one.astype(np.float16)} for at, one in enumerate(own)]
        for own in vectors
    ]
    return table.append_column("vectors", pa.array(rows, pa.list_(PICTURE)))


def tagged(table: pa.Table, tags: list[str]) -> Dataset:
    table = table.append_column("tags", pa.array([[tag] for tag in tags], pa.list_(pa.string())))
    return Dataset([table], gold_matrix([table], TREE))


def draw_pictured(count: int, seed: int) -> tuple[pa.Table, list[str]]:
    """Return posts that only their picture tells apart."""
    draw = np.random.default_rng(seed)
    sides = draw.integers(0, 2, count)
    vectors = [[draw.normal(0, 0.3, 12) + np.where(side, 1, -1), None] for side in sides]
    return posts(["分享图片"] * count, vectors), ["车" if side else "吃" for side in sides]


def test_a_post_has_the_mean_of_its_pictures_and_zeros_without() -> None:
    first, second = np.eye(3)[:2]
    has, means = mean_pictures(posts(["", "", ""], [[first, second], [None], []]))
    assert has.tolist() == [True, False, False] and np.allclose(means, [[0.5, 0.5, 0]])
    assert not mean_pictures(posts([""]))[0].any()
    table, _ = draw_pictured(60, 1)
    blocks = DenseBlocks.learn_pictures([table])
    assert blocks is not None
    found = blocks.read(pa.concat_tables([table, posts([""], [[]])]))
    assert found.shape == (61, blocks.width) and not found[-1].any()
    assert DenseBlocks.learn_pictures([posts(["a"])]) is None
    with pytest.raises(ModelError, match="have 3 numbers, the model was trained on 12"):
        blocks.read(posts([""], [[first]]))


@pytest.mark.parametrize("train", [train_linear, train_xmc])
def test_meaning_tells_what_no_shared_word_does(tmp_path: Path, train: Callable[..., LinearScorer | XmcScorer]) -> None:
    sides = tagged(posts(CARS + MEALS), ["车"] * 6 + ["吃"] * 6)
    scorer = train(sides.tables, sides.gold, TREE, blocks=NOTHING.with_texts("use"))
    fresh = posts(["汽车保养", "美食探店", ""])
    scores = scorer.raw_scores(fresh).toarray()
    assert scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]
    scorer.save(tmp_path)
    assert np.array_equal(type(scorer).load(tmp_path, TREE).raw_scores(fresh).toarray(), scores)
    write_json({"encoder": "use", "fingerprint": "0" * 12}, tmp_path / ABOUT)
    with pytest.raises(ModelError, match="was trained on texts by use-000000000000, here it is"):
        type(scorer).load(tmp_path, TREE)


@pytest.mark.parametrize("fit", [fit_linear, fit_xmc])
def test_vectors_are_read_only_where_they_bring_something(fit: Learner) -> None:
    options = LearningOptions(0, quiet=True)
    learnt = fit(Lesson(tagged(*draw_pictured(80, 1)), tagged(*draw_pictured(40, 2)), TREE, options))
    (blocks,) = learnt.scorer.blocks
    assert blocks.reads_pictures and not blocks.encoder
    assert learnt.report["pictures"] > learnt.report["n-grams"]
    sides = tagged(posts(["车"] * 20 + ["吃"] * 20), ["车"] * 20 + ["吃"] * 20)
    assert not fit(Lesson(sides, sides, TREE, options)).scorer.blocks


def test_texts_are_read_once_and_let_go_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    dense_blocks.forget_texts()
    monkeypatch.setattr(dense_blocks, "MOST_KEPT", 3)
    encoder = open_encoder()
    whole = encoder(CARS)
    for texts in (CARS[:2], CARS[:3], CARS, CARS[3:]):
        assert np.allclose(encode_kept(encoder, texts), [whole[CARS.index(text)] for text in texts], atol=2e-4)
    assert len(dense_blocks._kept) <= 3 and encode_kept(encoder, []).shape == (0, WIDTH)


def test_what_a_tagger_costs_has_the_reading_of_texts_in_it() -> None:
    read: list[int] = []

    class Counted(UseEncoder):
        def __call__(self, texts: Sequence[str], most: int = MOST_CHARACTERS) -> np.ndarray:
            read.append(len(texts))
            return super().__call__(texts, most)

    encoder = Counted()
    time_each(lambda: encode_kept(encoder, CARS), len(CARS))
    assert set(read) == {len(CARS)} and len(read) > 1
