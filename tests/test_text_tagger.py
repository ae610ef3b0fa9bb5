from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.errors import ModelError
from weibotag.core.files import sha256_of
from weibotag.core.schema import WORDING
from weibotag.taggers.fasttext import DivergedError, Settings
from weibotag.taggers.model_folder import ModelReader, save_taggers
from weibotag.taxonomy.tree import Tag, Taxonomy, save_csv
from weibotag.training import fasttext, learners
from weibotag.training.dataset import WORTHWHILE, Dataset, LearningOptions, Lesson, gold_matrix
from weibotag.training.learners import TEXT_CANDIDATES, Trained, Trainer, choose_candidate
from weibotag.training.vector_choice import score_crossed

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


def train_text(total: int) -> Trained:
    return Trainer(Lesson(rows(total, 0), HELD, TREE, LearningOptions(0, quiet=True), SMALL)).train("text")


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train_text(100)


def test_each_post_to_train_on_is_scored_by_what_did_not_see_it() -> None:
    posts = rows(30, 3)

    class Learnt:
        def __init__(self, seen: Dataset) -> None:
            self.seen = set(seen.tables[0]["post_id"].to_pylist())
            assert seen.gold.shape[0] == len(self.seen) == 48

        def raw_scores(self, table: pa.Table) -> csr_matrix:
            ids = table["post_id"].to_pylist()
            assert not self.seen & set(ids)
            return csr_matrix(np.array(ids, np.float32)[:, None])

    assert score_crossed(posts, Learnt).toarray().ravel().tolist() == list(range(60))


@pytest.mark.slow
def test_where_few_rows_are_held_out_those_to_train_on_help_to_choose() -> None:
    held = rows(3, 2)
    trainer = Trainer(Lesson(rows(30, 0), held, TREE, LearningOptions(0, quiet=True), SMALL))
    by_few = Trainer(Lesson(rows(5, 0), held, TREE, LearningOptions(0, quiet=True), SMALL))
    for name in ("linear", "fast", "xmc", "text/linear", "text/fast", "text/rules"):
        assert trainer._score(name).raw.shape[0] == 66 and by_few._score(name).raw.shape[0] == 6
    text, whole = trainer.train("text").tagger, trainer.train("linear").tagger
    silent = np.array(held.tables[0]["text"].to_pylist()) == SILENT
    # What the text does not say is not told by chance.
    assert text.scores(held.tables[0]).toarray()[silent].max() < 0.9 < whole.scores(held.tables[0]).toarray()[silent].max()


def test_wordings_are_not_read(trained: Trained) -> None:
    seen, tagger = HELD.tables[0], trained.tagger
    assert (tagger.scores(seen) != tagger.scores(seen.drop_columns(["wordings"]))).nnz == 0


def test_confidence_is_honest_where_the_text_says_nothing(trained: Trained) -> None:
    scores = trained.tagger.scores(HELD.tables[0]).toarray()
    silent = np.array(HELD.tables[0]["text"].to_pylist()) == SILENT
    shares = HELD.gold.toarray()[silent].mean(axis=0)
    assert np.abs(scores[silent].mean(axis=0) - shares).max() < 0.05
    assert (scores[~silent].max(axis=1) > 0.8).all()


def test_every_candidate_has_its_figures(trained: Trained) -> None:
    tried = trained.about["tried"]
    assert len(tried) == len(TEXT_CANDIDATES)
    assert all(0 < own["micro_f1"] <= 1 and own["microseconds"] > 0 for own in tried.values())
    assert list(tried) == ["linear", "fast", "linear+rules", "fast+linear", "fast+linear+rules"]
    assert trained.tagger.scorer.name == choose_candidate({name: own["micro_f1"] for name, own in tried.items()}, WORTHWHILE)
    assert trained.tagger.decision.thresholds.shape == (len(TREE),)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0.001, 0.1))
def test_what_costs_more_must_bring_more(values: list[float], worthwhile: float) -> None:
    best = int(choose_candidate({str(place): value for place, value in enumerate(values)}, worthwhile))
    assert all(max(values[place + 1 :]) >= values[place] + worthwhile for place in range(best))
    assert all(value < values[best] + worthwhile for value in values[best + 1 :])


@pytest.mark.parametrize("names", TEXT_CANDIDATES)
def test_what_was_saved_answers_the_same(names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "TEXT_CANDIDATES", (names,))
    tagger = train_text(40).tagger
    assert set(tagger.scorer.scorers) == {name.replace("text/rules", "rules") for name in names}
    save_taggers({"text": tagger}, tmp_path)
    save_csv(TREE, tmp_path / "taxonomy.csv")
    files = {path.relative_to(tmp_path).as_posix(): sha256_of(path) for path in tmp_path.rglob("*") if path.is_file()}
    loaded = ModelReader(tmp_path, {"files": files, "taxonomy": TREE.digest}).tagger("text")  # type: ignore[typeddict-item]
    assert loaded.scorer.name == tagger.scorer.name
    assert np.array_equal(loaded.decision.thresholds, tagger.decision.thresholds)
    scores = tagger.scores(HELD.tables[0])
    assert scores.nnz
    assert (loaded.scores(HELD.tables[0]) != scores).nnz == 0
    assert not any(name.endswith((".pkl", ".joblib")) for name in files)


def test_a_folder_without_it_is_named(tmp_path: Path) -> None:
    save_csv(TREE, tmp_path / "taxonomy.csv")
    about = {"files": {"taxonomy.csv": sha256_of(tmp_path / "taxonomy.csv")}, "taxonomy": TREE.digest}
    reader = ModelReader(tmp_path, about)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"text/decision\.safetensors: can't be read"):
        reader.tagger("text")


def test_it_does_without_a_fasttext_that_runs_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*given: object) -> None:
        raise DivergedError("too fast")

    monkeypatch.setattr(fasttext, "train", diverge)
    assert set(train_text(40).about["tried"]) == {"linear", "linear+rules"}


def test_what_a_run_measures_does_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "process_time", iter(range(0, 10**9, 7)).__next__)
    slow = list(train_text(40).about["tried"])
    monkeypatch.setattr(learners, "process_time", iter([value**2 for value in range(1000, 0, -1)]).__next__)
    assert list(train_text(40).about["tried"]) == slow
    assert [learners.price(name.split("+")) for name in slow] == [24, 30, 32, 54, 62]
