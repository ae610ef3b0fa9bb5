import numpy as np
import pytest

from weibotag.backends.embed_ppocr import BLOCK_WIDTHS, PpocrBackbone
from weibotag.media import Frame, frames_table
from weibotag.stages.embed import Embed


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def stage() -> Embed:
    opened = Embed(Embed.Config())
    opened.open()
    return opened


def test_a_vector_has_blocks_of_unit_length(stage: Embed) -> None:
    table = stage.process(frames_table([Frame("a", picture(90, 60)), Frame("b", np.zeros((40, 40, 3), np.uint8))]))
    assert table.schema == Embed.adds
    assert table["embed_error"].null_count == 2
    for vector in table["embed_vector"].to_pylist():
        assert len(vector) == sum(BLOCK_WIDTHS) == PpocrBackbone.width
        blocks = np.split(np.array(vector, np.float32), np.cumsum(BLOCK_WIDTHS)[:-1])
        assert np.allclose([np.linalg.norm(block) for block in blocks], 1, atol=0.01)


def test_a_vector_is_a_function_of_its_picture_alone(stage: Embed) -> None:
    frames = [Frame(str(seed), picture(50 + seed, 70, seed)) for seed in range(4)]
    together = stage.process(frames_table(frames))["embed_vector"].to_pylist()
    alone = [stage.process(frames_table([frame]))["embed_vector"].to_pylist()[0] for frame in reversed(frames)]
    assert together == alone[::-1]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (17, 400)])
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


def test_a_picture_that_the_library_refuses_is_a_reason(stage: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rgb: np.ndarray) -> np.ndarray:
        raise ValueError("no such picture")

    monkeypatch.setattr(stage._backend, "embed", refuse)
    (row,) = stage.process(frames_table([Frame("a", picture(9, 9))])).to_pylist()
    assert row == {"media_id": "a", "embed_vector": None, "embed_error": "no such picture"}
