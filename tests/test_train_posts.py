import json
from pathlib import Path
from typing import Any

import pytest
from reading import write_rows

from weibotag.core.errors import RequestError
from weibotag.extraction.requests import TrainRequest
from weibotag.posts.source import PostsSource
from weibotag.taggers.model_folder import load_model, read_about
from weibotag.training.train import train_model

ROOT = Path(__file__).parents[1]
POSTS = ROOT / "examples" / "posts.csv"
TAXONOMY = ROOT / "taxonomies" / "weibo.csv"


def train(source: PostsSource, out: Path, store: Path, valid: str | None = None) -> dict[str, Any]:
    posts: dict[str, Any] = {"posts": source.path, "columns": dict(source.columns), "where": source.where}
    order = TrainRequest(
        **posts, taxonomy=TAXONOMY, model=out, valid=valid, tagger="fast", tune_seconds=0, store=store, quiet=True
    )
    return train_model(order)


def test_where_picks_the_rows_to_train_on_and_valid_those_held_out(model: Path, store: Path, tmp_path: Path) -> None:
    both = PostsSource(str(POSTS), where="split = 'train'")
    about = train(both, tmp_path / "both", store, valid="split = 'valid'")
    assert about["posts"] == {"train": 323, "valid": 51}
    # The rows that `valid` names are held out whether `where` picks them too or not.
    first = json.loads((model / "model.json").read_text("utf-8"))
    assert first["posts"] == about["posts"]
    again = json.loads((tmp_path / "both" / "model.json").read_text("utf-8"))
    assert first["files"] == again["files"]
    assert (tmp_path / "both" / "fast" / "fasttext.bin").read_bytes() == (model / "fast" / "fasttext.bin").read_bytes()


def test_a_tenth_is_held_out_where_valid_is_not_said(store: Path, model: Path, tmp_path: Path) -> None:
    about = train(PostsSource(str(POSTS), where="split <> 'test'"), tmp_path / "model", store)
    assert about["posts"]["train"] + about["posts"]["valid"] == 374
    assert 15 <= about["posts"]["valid"] <= 40


def test_posts_without_labels_change_nothing(store: Path, model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "post_id": f"p{n}",
            "text": f"{['足球 皇马', '口红 试色'][n % 2]} {n}",
            "tags": ["体育/足球", "美妆/口红"][n % 2],
            "side": "valid" if n % 5 == 0 else "train",
        }
        for n in range(40)
    ]
    bare = [{"post_id": f"u{n}", "text": "没有标签", "tags": "", "side": "train"} for n in range(7)]
    train(PostsSource(str(write_rows(tmp_path / "all.csv", rows))), tmp_path / "a", store, valid="side = 'valid'")
    mixed = [row for pair in zip(rows, bare, strict=False) for row in pair] + rows[len(bare) :]
    about = train(PostsSource(str(write_rows(tmp_path / "mixed.csv", mixed))), tmp_path / "b", store, valid="side = 'valid'")
    assert about["posts"] == {"train": 32, "valid": 8}
    assert (tmp_path / "a" / "fast" / "fasttext.bin").read_bytes() == (tmp_path / "b" / "fast" / "fasttext.bin").read_bytes()
    with pytest.raises(RequestError, match="0 have a tag of the taxonomy"):
        train(PostsSource(str(write_rows(tmp_path / "bare.csv", bare))), tmp_path / "c", store)
    with pytest.raises(RequestError, match=r"0 are held out .where side"):
        train(PostsSource(str(tmp_path / "all.csv")), tmp_path / "c", store, valid="side = 'nothing'")
    assert not (tmp_path / "c").exists()


def test_what_a_killed_training_left_beside_the_model_goes(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    for name in (f".model.{'a' * 16}.tmp", f".model.{'b' * 16}.old", f".model.b.{'c' * 16}.tmp", ".model.mine.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fasttext.bin").write_text("half")
    for _ in range(2):
        load_model(model).save(place)
        assert read_about(place)["posts"] == read_about(model)["posts"]
        assert {path.name for path in tmp_path.iterdir()} == {"model", f".model.b.{'c' * 16}.tmp", ".model.mine.old"}
