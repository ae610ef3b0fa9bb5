import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from weibotag import training
from weibotag.taggers.fast import DivergedError, Settings, train
from weibotag.taxonomy.tree import Tag, Taxonomy

TREE = Taxonomy([Tag("美妆", None, "美妆", (), (), 2), Tag("体育", None, "体育", (), (), 3)])


def rows() -> training.Rows:
    texts = ["口红显白", "进球了"] * 20
    table = pa.table({name: texts if name == "text" else [""] * 40 for name in ("post_id", "text", "author", "channel")})
    return training.Rows([table], csr_matrix(np.array([[1, 0], [0, 1]] * 20, np.float32)))


def test_a_trial_that_runs_away_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def frail(lines: list[str], gold: csr_matrix, settings: Settings, threads: int) -> object:
        if settings.lr >= 0.5:
            raise DivergedError("Encountered NaN")
        return train(lines, gold, settings, threads)

    monkeypatch.setattr(training, "train", frail)
    network, settings, trials = training.tune(rows(), rows(), TREE, 0, 1, quiet=True)
    assert network is not None
    assert settings.lr == 0.25
    assert trials[0]["micro_f1"] is None
    assert trials[-1]["micro_f1"] > 0.9


def test_running_away_every_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise DivergedError("Encountered NaN")

    monkeypatch.setattr(training, "train", broken)
    with pytest.raises(DivergedError, match="every learning rate"):
        training.tune(rows(), rows(), TREE, 60, 1, quiet=True)
