import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import ask, enter
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.vision.backend import PictureVector
from weibotag.vision.embed import Embed
from weibotag.vision.media.pictures import Frame, frames_table

# Widths of the blocks of a vector, and of the part of a cell before its colours.
BLOCK_WIDTHS = {
    "efficientnet": (1280, 80, 80, 112, 112, 192, 192, 192, 360),
    "ppocr": (48, 48, 96, 96, 192, 192, 192, 192, 384, 384, 192, 360),
}
CELL_WIDTHS = {"efficientnet": 112, "ppocr": 192}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=BLOCK_WIDTHS)
def stage(request: pytest.FixtureRequest) -> Embed:
    opened = Embed(Embed.Config(backend=request.param))
    opened.open()
    return opened


def test_a_vector_has_blocks_of_unit_length(stage: Embed) -> None:
    table = stage.process(frames_table([Frame("a", picture(90, 60)), Frame("b", np.zeros((40, 40, 3), np.uint8))]))
    assert table.schema == arrow_schema("embed")
    assert table["embed_error"].null_count == 2
    for vector in table["embed_vector"].to_pylist():
        widths = BLOCK_WIDTHS[stage.config.backend]
        assert len(vector) == sum(widths)
        blocks = np.split(np.array(vector, np.float32), np.cumsum(widths)[:-1])
        assert np.allclose([np.linalg.norm(block) for block in blocks], 1, atol=0.01)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=2, max_size=5), draw=st.randoms())
def test_a_vector_is_a_function_of_its_picture_alone(stage: Embed, sizes: list[tuple[int, int]], draw: Random) -> None:
    pictures = [picture(*size, seed) for seed, size in enumerate(sizes)]
    order = list(range(len(pictures)))
    draw.shuffle(order)
    together = np.stack([one.vector for one in stage._backend.look(pictures)])
    alone = np.stack([stage._backend.look([one])[0].vector for one in pictures])
    shuffled = np.stack([one.vector for one in stage._backend.look([pictures[place] for place in order])])
    assert np.array_equal(together, alone)
    assert np.array_equal(together[order], shuffled)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (17, 400), (30, 9000), (4096, 4096)])
def test_odd_shapes_have_vectors_too(stage: Embed, size: tuple[int, int]) -> None:
    (vector,) = stage.process(frames_table([Frame("a", picture(*size))]))["embed_vector"].to_pylist()
    assert np.isfinite(vector).all()


def test_colours_tell_red_from_blue(stage: Embed) -> None:
    colours = [np.full((64, 64, 3), colour, np.uint8) for colour in ((220, 20, 40), (200, 30, 50), (20, 40, 220))]
    red, other_red, blue = (
        np.array(vector, np.float32)
        for vector in stage.process(frames_table([Frame(str(at), rgb) for at, rgb in enumerate(colours)]))[
            "embed_vector"
        ].to_pylist()
    )
    assert red @ other_red > red @ blue + 0.5


def test_a_picture_that_the_library_refuses_is_a_reason_in_its_row_only(
    stage: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = stage._backend._look_at

    def refuse_small(rgb: np.ndarray) -> PictureVector:
        if len(rgb) < 10:
            raise ValueError("no such picture")
        return embed(rgb)

    monkeypatch.setattr(stage._backend, "_look_at", refuse_small)
    table = stage.process(frames_table([Frame("a", picture(9, 9)), Frame("b", picture(20, 20))]))
    assert table["embed_vector"].is_valid().to_pylist() == [False, True]
    assert "no such picture" in table["embed_error"][0].as_py()
    assert table["embed_error"][1].as_py() is None


def test_a_grid_gives_patches_in_order_and_leaves_the_vector_as_it_is(stage: Embed) -> None:
    halves = np.zeros((80, 120, 3), np.uint8)
    halves[:, :60], halves[:, 60:] = (220, 20, 40), (20, 40, 220)
    frames = frames_table([Frame("a", halves), Frame("b", halves[:, ::-1].copy()), Frame("c", picture(1, 900))])
    backend, width = stage.config.backend, CELL_WIDTHS[stage.config.backend]
    cut = Embed(Embed.Config(backend=backend, grid=2))
    cut.open()
    found, whole = cut.process(frames), stage.process(frames)
    assert found.schema == whole.schema == arrow_schema("embed")
    assert whole["embed_patches"].null_count == 3
    assert found["embed_vector"].equals(whole["embed_vector"])
    straight, mirrored, _ = (np.array(cells, np.float32) for cells in found["embed_patches"].to_pylist())
    assert straight.shape == (4, width + 72)
    colours = straight[:, width:] @ mirrored[:, width:].T
    assert np.allclose(colours.diagonal(), 0, atol=0.01)
    assert np.allclose([colours[0, 1], colours[1, 0], colours[2, 3], colours[3, 2]], 1, atol=0.01)
    assert len({Embed(Embed.Config(backend=backend, grid=grid)).fingerprint() for grid in (0, 2, 3)}) == 3
    # A size that the network's stage is no multiple of.
    thirds = Embed(Embed.Config(backend=backend, grid=3))
    thirds.open()
    assert [len(cells) for cells in thirds.process(frames)["embed_patches"].to_pylist()] == [9, 9, 9]
    with pytest.raises(ValidationError, match="less than or equal to 4"):
        Embed.Config(grid=5)


def test_classes_are_the_likeliest_of_a_thousand_and_only_where_a_network_knows_them(stage: Embed) -> None:
    table = stage.process(frames_table([Frame("a", picture(90, 60)), Frame("b", np.full((300, 200, 3), 9, np.uint8))]))
    for found in table["embed_classes"].to_pylist():
        scores = [one["score"] for one in found]
        assert scores == sorted(scores, reverse=True) and 0 <= sum(scores) <= 1.001
        assert len({one["number"] for one in found}) == (10 if stage.config.backend == "efficientnet" else 0)


def test_a_drawn_clock_is_a_clock() -> None:
    """Analog clock (409) or wall clock (892) of ImageNet: whether the network is put together as it was taught."""
    image = Image.new("RGB", (300, 300), "#b08968")
    pen = ImageDraw.Draw(image)
    pen.ellipse((30, 30, 270, 270), "white", "black", 10)
    for hour in range(12):
        x, y = (150 + 95 * f(hour * np.pi / 6) for f in (np.sin, lambda angle: -np.cos(angle)))
        pen.text((x, y), str(hour or 12), "black", ImageFont.load_default(24), "mm")
    pen.line((150, 150, 150, 80), "black", 8)
    pen.line((150, 150, 210, 150), "black", 8)
    stage = Embed(Embed.Config())
    stage.open()
    ((best, *_),) = stage.process(frames_table([Frame("a", np.asarray(image))]))["embed_classes"].to_pylist()
    assert best["number"] in (409, 892) and best["score"] > 0.5


def test_what_a_backend_does_not_know_is_refused() -> None:
    assert len(Embed(Embed.Config()).fingerprint()) == 12
    with pytest.raises(RequestError, match="is no setting of the backend 'efficientnet'"):
        Embed(Embed.Config(model="other")).fingerprint()
    asked: Any
    for asked in ({"model": "other"}, {"precision": "float16"}):
        with pytest.raises(RequestError, match="is no setting of the backend 'ppocr'"):
            Embed(Embed.Config(backend="ppocr", **asked)).fingerprint()
    assert not Embed(Embed.Config()).reads_texts


def looks(*classes: tuple[int, float]) -> list[tuple[str, str, float]]:
    row = {"embed_classes": [{"number": number, "score": score} for number, score in classes]}
    return [(word, kind, round(score, 4)) for word, kind, score, _ in Embed.words(row)]


def test_what_a_picture_looks_like_is_its_class_where_that_is_sure() -> None:
    assert looks((610, 0.8), (841, 0.1), (608, 0.005)) == [
        ("T恤", "looks", 0.8),
        ("t-shirt", "looks", 0.8),
        ("卫衣", "guess", 0.1),
    ]
    # Two classes of one name.
    assert looks((836, 0.4), (837, 0.3))[:2] == [("墨镜", "looks", 0.7), ("sunglasses", "looks", 0.7)]


def test_else_it_is_the_narrowest_kind_that_is_sure() -> None:
    assert looks((207, 0.4), (208, 0.3), (281, 0.1), (232, 0.05)) == [
        ("狗狗", "looks", 0.75),
        ("dog", "looks", 0.75),
        ("金毛", "guess", 0.4),
        ("拉布拉多", "guess", 0.3),
        ("狸花猫", "guess", 0.1),
        ("边牧", "guess", 0.05),
    ]
    assert [word for word, kind, _ in looks((608, 0.3), (610, 0.3)) if kind == "looks"] == ["服装"]
    assert [kind for _, kind, _ in looks((954, 0.3), (805, 0.2))] == ["guess", "guess"]


def test_places_and_prints_are_no_looks() -> None:
    assert looks((582, 0.9), (916, 0.05)) == []
    assert looks((582, 0.3), (954, 0.6))[0] == ("香蕉", "looks", 0.6)
    assert Embed.words({"embed_classes": None}) == Embed.words({}) == []


@given(st.lists(st.tuples(st.integers(0, 999), st.floats(0, 1)), max_size=10, unique_by=lambda one: one[0]))
def test_scores_of_looks_are_scores_and_words_differ(classes: list[tuple[int, float]]) -> None:
    said = looks(*sorted(classes, key=lambda one: -one[1]))
    assert all(0 < score <= 1 and word for word, _, score in said)
    assert len({word for word, _, _ in said}) == len(said) <= 7


def test_copies_agree_where_one_is_taken_for_a_likely_class_of_the_other() -> None:
    one, other, none = (
        {"embed_classes": [{"number": number, "score": 0.2} for number in own]} for own in ((1, 2, 3, 4), (5, 6, 1, 2), ())
    )
    assert Embed.agree(one, other) and Embed.agree(none, none)
    assert not Embed.agree({"embed_classes": [{"number": 9, "score": 0.9}]}, one)


FEED = Path(os.environ.get("WEIBOTAG_SHARED", Path(__file__).parents[2] / "shared")) / "data/feed"


@pytest.mark.skipif(not (FEED / "images").exists(), reason="no real data (set WEIBOTAG_SHARED)")
def test_photos_say_what_they_look_like_and_give_tags_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    photos = {"T恤": "ca9946daed0.jpg", "香蕉": "g0c2f045e1d.jpg", "甜椒": "g5889d1c7ed.jpg"}
    for name in photos.values():
        shutil.copy(FEED / "images" / name, name)
    rows = [f"{number},,{name}" for number, name in enumerate(photos.values())]
    Path("posts.csv").write_text("\n".join(["post_id,text,images", *rows]) + "\n", encoding="utf-8")
    Path("looks.toml").write_text('stages = ["embed"]\n', encoding="utf-8")
    options = "-p", "looks.toml", "--workers", "0", "-q"
    assert ask("wordings", "posts.csv", "-o", "words.parquet", *options).exit_code == 0
    said = [
        {one["word"] for one in own if one["kind"] == "looks"}
        for own in pq.read_table("words.parquet")["wordings"].to_pylist()
    ]
    assert all(word in own for word, own in zip(photos, said, strict=True))
    assert ask("tag", "posts.csv", "-t", str(FEED / "taxonomy.csv"), "-o", "out.parquet", *options).exit_code == 0
    tags = [{tag["id"] for tag in own} for own in pq.read_table("out.parquet")["tags"].to_pylist()]
    assert all(kind in own for kind, own in zip(("服饰/T恤", "食品/水果", "食品/蔬菜"), tags, strict=True))
    evidence = pq.read_table("out.parquet")["evidence"].to_pylist()
    assert ("服饰/T恤", "looks", "T恤") in {(one["tag_id"], one["kind"], one["word"]) for one in evidence[0]}
