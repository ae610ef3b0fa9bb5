from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weibotag.core.errors import ModelError
from weibotag.core.schema import WORDING
from weibotag.taggers.ensemble import CANDIDATES, TextTagger
from weibotag.taggers.fasttext import DivergedError, Settings
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.training import text_only
from weibotag.training.dataset import WORTHWHILE, Dataset, gold_matrix
from weibotag.training.text_only import choose_candidate, train_text

TREE = Taxonomy([Tag(name, None, name, (), (), line) for line, name in enumerate(["体育", "美妆", "食品", "服饰"], start=2)])
SMALL = Settings(epoch=40, dim=8, bucket=1000)
SPOKEN = {"体育": ["进球", "比赛", "球队赢了"], "美妆": ["口红", "显白", "眼影盘"]}
# What a post with a picture says, and the share of each tag among such posts: no text can tell them apart.
SILENT, SHARES = "分享图片", {"食品": 0.6, "服饰": 0.4}


def rows(total: int, seed: int) -> Dataset:
    """Return posts whose text tells the tag, and as many whose text says nothing, with pictures that tell it."""
    draw = np.random.default_rng(seed)
    texts: list[str] = []
    tags: list[list[str]] = []
    wordings: list[list[dict]] = []
    for _ in range(total):
        tag = str(draw.choice(list(SPOKEN)))
        texts.append(f"{draw.choice(SPOKEN[tag])}{draw.choice(['了', '好', '呀'])}")
        tags.append([tag])
        wordings.append([])
        tag = str(draw.choice(list(SHARES), p=list(SHARES.values())))
        texts.append(SILENT)
        tags.append([tag])
        wordings.append([{"word": tag, "kind": "object", "score": 1.0, "count": 1, "media_id": "m", "box": None}])
    columns = {"post_id": [str(at) for at in range(2 * total)], "text": texts, "author": [""] * 2 * total}
    table = pa.table({**columns, "channel": [""] * 2 * total, "tags": pa.array(tags, pa.list_(pa.string()))})
    return Dataset([table.append_column("wordings", pa.array(wordings, pa.list_(WORDING)))], gold_matrix([table], TREE))


HELD = rows(200, 1)


@pytest.fixture(scope="module")
def tagger() -> TextTagger:
    return train_text(rows(100, 0), HELD, TREE, SMALL, 0, 1, True)


def test_wordings_are_not_read(tagger: TextTagger) -> None:
    seen = HELD.tables[0]
    assert (tagger.scores(seen) != tagger.scores(seen.drop_columns(["wordings"]))).nnz == 0


def test_confidence_is_honest_where_the_text_says_nothing(tagger: TextTagger) -> None:
    scores = tagger.scores(HELD.tables[0]).toarray()
    silent = np.array(HELD.tables[0]["text"].to_pylist()) == SILENT
    shares = HELD.gold.toarray()[silent].mean(axis=0)
    assert np.abs(scores[silent].mean(axis=0) - shares).max() < 0.05
    assert (scores[~silent].max(axis=1) > 0.8).all()


def test_every_candidate_has_its_figures(tagger: TextTagger) -> None:
    assert list(tagger.figures) == list(CANDIDATES)
    assert all(0 < told["micro_f1"] <= 1 and told["microseconds"] > 0 for told in tagger.figures.values())
    assert tagger.name == choose_candidate({name: told["micro_f1"] for name, told in tagger.figures.items()}, WORTHWHILE)
    assert tagger.thresholds.shape == (len(TREE),)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0.001, 0.1))
def test_what_costs_more_must_bring_more(values: list[float], worthwhile: float) -> None:
    scores = {str(place): value for place, value in enumerate(values)}
    best = choose_candidate(scores, worthwhile)
    assert all(scores[best] >= scores[str(place)] + worthwhile for place in range(int(best)))
    assert all(scores[str(place)] < scores[best] + worthwhile for place in range(int(best) + 1, len(values)))


@pytest.mark.parametrize("name", CANDIDATES)
def test_what_was_saved_answers_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_only, "choose_candidate", lambda scores, worthwhile: name)
    chosen = train_text(rows(40, 0), HELD, TREE, SMALL, 0, 1, True)
    chosen.save(tmp_path)
    loaded = TextTagger.load(tmp_path, TREE)
    assert (loaded.name, loaded.figures) == (name, chosen.figures)
    assert np.array_equal(loaded.thresholds, chosen.thresholds)
    scores = chosen.scores(HELD.tables[0])
    assert scores.nnz
    assert (loaded.scores(HELD.tables[0]) != scores).nnz == 0
    assert not any(path.suffix in (".pkl", ".joblib") for path in tmp_path.iterdir())


def test_a_folder_without_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no text tagger there \(no text\.json\)"):
        TextTagger.load(tmp_path, TREE)


def test_it_does_without_a_fasttext_that_runs_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*given: object) -> None:
        raise DivergedError("too fast")

    monkeypatch.setattr(text_only, "train", diverge)
    assert list(train_text(rows(40, 0), HELD, TREE, SMALL, 0, 1, True).figures) == ["linear", "linear, rules"]
