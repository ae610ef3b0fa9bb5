"""Text in pictures: what is written is read, at every size, whatever other pictures are looked at with it."""

import pickle
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.core.schema import arrow_schema
from weibotag.vision.backend import Backend, Line
from weibotag.vision.backends.ocr_fasterpaddle import FasterPaddle
from weibotag.vision.backends.ocr_layout import (
    CLOSER,
    ENLARGE,
    PAGE,
    SMALL,
    SMALLEST,
    drop_doubles,
    order_lines,
    plan_views,
    tile_rows,
)
from weibotag.vision.backends.ocr_rapidocr import GPU_BATCHES, RapidOcr, Reading, Spot
from weibotag.vision.media.pictures import Frame, frames_table
from weibotag.vision.ocr import Ocr
from weibotag.vision.stage import fingerprint


def write_lines(size: tuple[int, int], lines: list[tuple[int, int, str]], font: ImageFont.FreeTypeFont) -> np.ndarray:
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for left, top, text in lines:
        draw.text((left, top), text, fill="black", font=font)
    return np.asarray(image)


def latin(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        pytest.skip("this Pillow has no FreeType")
    return font


@pytest.fixture(scope="module")
def rapid() -> Iterator[RapidOcr]:
    backend = RapidOcr()
    backend.open(threads=1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def faster() -> Iterator[FasterPaddle]:
    pytest.importorskip("faster_paddle", reason="needs the extra fastocr")
    backend = FasterPaddle()
    backend.open(threads=1)
    yield backend
    backend.close()


@pytest.fixture(params=["rapid", "faster"])
def backend(request: pytest.FixtureRequest) -> RapidOcr | FasterPaddle:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def stage() -> Iterator[Ocr]:
    stage = Ocr(Ocr.Config())
    stage.open()
    yield stage
    stage.close()


def read(backend: Backend[list[Line]], rgb: np.ndarray) -> list[Line]:
    return backend.look([rgb])[0]


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_lines_are_read_in_reading_order_with_their_boxes(backend: RapidOcr | FasterPaddle) -> None:
    places = [(300, 60, "RIGHT"), (30, 62, "LEFT"), (30, 200, "BELOW")]
    lines = read(backend, write_lines((520, 300), places, latin(40)))
    assert texts(lines) == ["LEFT", "RIGHT", "BELOW"]
    for line, (left, top) in zip(lines, [(30, 62), (300, 60), (30, 200)], strict=True):
        assert line.score > 0.8
        assert abs(min(line.box[0::2]) - left) < 15
        assert abs((min(line.box[1::2]) + max(line.box[1::2])) / 2 - (top + 24)) < 15


@pytest.mark.parametrize("size", [(160, 60), (320, 240), (1800, 1200), (2400, 300)])
def test_boxes_fit_pictures_of_every_size(backend: RapidOcr | FasterPaddle, size: tuple[int, int]) -> None:
    height = max(20, size[1] // 8)
    lines = read(backend, write_lines(size, [(10, size[1] // 2, "HELLO")], latin(height)))
    assert texts(lines) == ["HELLO"]
    xs, ys = lines[0].box[0::2], lines[0].box[1::2]
    assert min(xs) >= 0 and min(ys) >= size[1] // 2 - height and max(xs) <= size[0] and max(ys) <= size[1]


def test_a_tall_poster_is_read_whole_once_and_in_order(backend: RapidOcr | FasterPaddle) -> None:
    expected = [f"LINE {number}" for number in range(100, 130)]
    places = [(30, 20 + number * 130, text) for number, text in enumerate(expected)]
    lines = read(backend, write_lines((400, 4000), places, latin(36)))
    assert [text.replace(" ", "") for text in texts(lines)] == [text.replace(" ", "") for text in expected]
    assert max(max(line.box[1::2]) for line in lines) > 3700


def chinese(size: int) -> ImageFont.FreeTypeFont:
    if shutil.which("fc-match") is None:
        pytest.skip("no fc-match to look for a Chinese font with")
    found = subprocess.run(
        ["fc-match", "--format=%{file}|%{lang}", "sans:lang=zh-cn"], capture_output=True, text=True, check=True
    ).stdout
    path, _, languages = found.partition("|")
    if "zh-cn" not in languages.split("|"):
        pytest.skip("no Chinese font")
    return ImageFont.truetype(path, size)


def test_chinese_is_read(backend: RapidOcr | FasterPaddle) -> None:
    lines = read(backend, write_lines((420, 120), [(20, 30, "今天天气很好")], chinese(44)))
    assert texts(lines) == ["今天天气很好"]


@pytest.mark.parametrize("shape", [(1, 1), (SMALLEST - 1, 400), (400, 3), (1, 5000), (9000, 17), (17, 9000), (16, 16)])
def test_pictures_too_small_or_thin_for_text_have_none(backend: RapidOcr | FasterPaddle, shape: tuple[int, int]) -> None:
    assert read(backend, np.full((*shape, 3), 255, np.uint8)) == []


def test_the_stage_gives_one_row_a_picture_whatever_stands_beside_it(stage: Ocr) -> None:
    pictures = [
        Frame("text", write_lines((420, 120), [(20, 30, "PHONE SALE")], latin(44))),
        Frame("blank", np.full((200, 200, 3), 255, np.uint8)),
        Frame("dot", np.zeros((1, 1, 3), np.uint8)),
        Frame("wide", write_lines((2000, 200), [(20, 60, "A VERY WIDE BANNER")], latin(60))),
    ]
    together = stage.process(frames_table(pictures))
    assert together.schema == arrow_schema("ocr")
    assert together["media_id"].to_pylist() == ["text", "blank", "dot", "wide"]
    rows = together.to_pylist()
    assert [[line["text"] for line in row["ocr_lines"]] for row in rows] == [
        ["PHONE SALE"],
        [],
        [],
        ["A VERY WIDE BANNER"],
    ]
    assert all(len(line["box"]) == 8 for row in rows for line in row["ocr_lines"])
    assert together["ocr_error"].null_count == 4
    alone = [stage.process(frames_table([picture])) for picture in reversed(pictures)]
    assert pa.concat_tables(reversed(alone)).to_pylist() == rows
    assert stage.process(frames_table([])).schema == arrow_schema("ocr")


def test_a_picture_that_breaks_the_networks_is_a_reason(stage: Ocr, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stage._backend

    def fail(batch: np.ndarray) -> list[np.ndarray]:
        raise backend.errors[0]("one\ntwo: the last line")

    monkeypatch.setattr(backend, "_model", fail)
    row = stage.process(frames_table([Frame("a", np.full((100, 100, 3), 255, np.uint8))])).to_pylist()[0]
    assert row["ocr_lines"] is None
    assert row["ocr_error"].endswith("two: the last line")


@pytest.mark.parametrize("batches", [None, GPU_BATCHES])
def test_what_is_read_does_not_depend_on_what_is_looked_at_with_it(
    rapid: RapidOcr, monkeypatch: pytest.MonkeyPatch, batches: tuple[int, int] | None
) -> None:
    if batches:
        monkeypatch.setattr(rapid, "_find_batch", batches[0])
        monkeypatch.setattr(rapid, "_reader", replace(rapid._reader, batch=batches[1]))
    sizes = [(420, 120), (420, 120), (160, 160), (900, 300), (420, 120), (300, 900)]
    pictures = [
        write_lines(size, [(10, 10 + 50 * row, f"LINE {number}{row}") for row in range(3)], latin(24))
        for number, size in enumerate(sizes)
    ]
    alone = [rapid.look([picture])[0] for picture in pictures]
    assert all(alone)
    together = rapid.look(pictures)
    assert texts(together[0]) == texts(alone[0])
    assert [texts(lines) for lines in together] == [texts(lines) for lines in alone]
    if batches is None:
        assert together == alone
        assert rapid.look(pictures[::-1]) == alone[::-1]


@pytest.mark.parametrize("degrees", [-12, 8, 90])
def test_turned_text_is_read_in_a_turned_box(rapid: RapidOcr, degrees: int) -> None:
    upright = Image.fromarray(write_lines((420, 420), [(60, 190, "PHONE SALE")], latin(40)))
    lines = read(rapid, np.asarray(upright.rotate(degrees, Image.Resampling.BICUBIC, fillcolor="white")))
    assert texts(lines) == ["PHONE SALE"]
    left, top, right, right_top = lines[0].box[:4]
    assert abs(np.degrees(np.arctan2(top - right_top, right - left)) - degrees) < 3


def test_small_print_of_a_large_picture_gets_a_nearer_look(backend: RapidOcr | FasterPaddle) -> None:
    expected = [f"SMALL PRINT {number} OF A LARGE PAGE" for number in range(100, 110)]
    places = [(100, 100 + 60 * row, text) for row, text in enumerate(expected)]
    lines = read(backend, write_lines((1600, 1200), places, latin(14)))
    assert "".join("".join(texts(lines)).split()) == "".join("".join(expected).split())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_noise_of_any_size_gives_boxes_inside_it_at_most(
    backend: RapidOcr | FasterPaddle, width: int, height: int, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 2, (height, width, 1), np.uint8) * 255
    for line in read(backend, np.repeat(noise, 3, 2)):
        assert min(line.box) >= 0 and max(line.box[0::2]) <= width and max(line.box[1::2]) <= height
        assert line.text and 0 <= line.score <= 1


def test_what_a_fast_reader_doubts_is_read_once_more(faster: FasterPaddle, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = write_lines((420, 120), [(20, 30, "PHONE SALE")], latin(44))
    asked: list[int] = []

    def answer(spots: list[Spot]) -> list[Reading]:
        asked.append(len(spots))
        return [Reading("BETTER", 1.0) for _ in spots]

    monkeypatch.setattr(faster._reader.__class__, "read", lambda self, spots: answer(spots))
    assert texts(read(faster, picture)) == ["PHONE SALE"] and asked == [0]
    monkeypatch.setattr("weibotag.vision.backends.ocr_fasterpaddle.SURE", 1.1)
    assert texts(read(faster, picture)) == ["BETTER"] and asked == [0, 1]


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("words", [["PHONE SALE", "Open from 9 am", "no refunds"], ["No entry"]], ids=len)
def test_pictures_that_lie_or_stand_on_their_heads_are_read(rapid: RapidOcr, words: list[str], quarters: int) -> None:
    upright = write_lines((440, 330), [(40, 40 + 80 * row, text) for row, text in enumerate(words)], latin(40))
    lines = read(rapid, np.ascontiguousarray(np.rot90(upright, quarters)))
    assert texts(lines) == words
    for line in lines:
        left, top, right, bottom = line.box[:4]
        # Where the text begins; what runs down may as well be letters that stand upright in a column.
        assert quarters == 3 or (quarters == 2 and left > right) or (quarters == 1 and top > bottom)


def test_one_line_that_stands_on_its_head_leaves_the_others(rapid: RapidOcr) -> None:
    page = write_lines((440, 330), [(40, 40, "PHONE SALE at our shop"), (40, 220, "Open at 9")], latin(32)).copy()
    page[200:300] = page[200:300][::-1, ::-1]
    assert texts(read(rapid, page)) == ["PHONE SALE at our shop", "Open at 9"]


@pytest.mark.parametrize(
    "columns", [["春眠不觉晓", "处处闻啼鸟", "夜来风雨声"], ["國破山河在", "城春草木深"], ["二〇二五年", "第12届比赛"]]
)
def test_columns_are_read_from_right_to_left_below_their_heading(rapid: RapidOcr, columns: list[str]) -> None:
    places = [(420 - 90 * at, 120 + 56 * row, letter) for at, text in enumerate(columns) for row, letter in enumerate(text)]
    lines = read(rapid, write_lines((520, 520), [(40, 30, "唐诗三百首"), *places], chinese(44)))
    assert texts(lines) == ["唐诗三百首", *columns]


def test_openvino_reads_the_same() -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    backend = RapidOcr(engine="openvino")
    backend.open()
    assert texts(read(backend, write_lines((420, 120), [(20, 30, "PHONE SALE")], latin(44)))) == ["PHONE SALE"]
    backend.close()


def test_an_engine_that_is_absent_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weibotag.vision.backends.ocr_rapidocr.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"weibotag\[openvino\]"):
        RapidOcr(engine="openvino").weights()


def test_min_score_leaves_lines_out() -> None:
    stage = Ocr(Ocr.Config(min_score=1.0))
    stage.open()
    picture = Frame("a", write_lines((420, 120), [(20, 30, "PHONE SALE")], latin(44)))
    assert stage.process(frames_table([picture]))["ocr_lines"].to_pylist() == [[]]
    stage.close()


def test_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    other = RapidOcr()
    other.open(threads=1)
    read(other, np.full((100, 100, 3), 255, np.uint8))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_the_fingerprint_follows_settings_and_weights() -> None:
    one, same, other = Ocr(Ocr.Config()), Ocr(Ocr.Config()), Ocr(Ocr.Config(max_side=480))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert len(one.fingerprint()) == 12 and int(one.fingerprint(), 16) >= 0
    assert pickle.loads(pickle.dumps(one)).fingerprint() == one.fingerprint()
    with pytest.raises(ValidationError):
        Ocr.Config(max_sides=480)  # type: ignore[call-arg]


def test_the_fingerprint_of_changed_weights_changes(tmp_path: Path) -> None:
    weights = tmp_path / "a.onnx"
    weights.write_bytes(b"one")
    before = fingerprint("ocr", 1, {"side": 1}, [weights])
    assert before == fingerprint("ocr", 1, {"side": 1}, [weights])
    others = {
        fingerprint("faces", 1, {"side": 1}, [weights]),
        fingerprint("ocr", 2, {"side": 1}, [weights]),
        fingerprint("ocr", 1, {"side": 2}, [weights]),
        fingerprint("ocr", 1, {"side": 1}, []),
        fingerprint("ocr", 1, {"side": 1}, [weights], ["abc"]),
    }
    weights.write_bytes(b"two and more")
    others.add(fingerprint("ocr", 1, {"side": 1}, [weights]))
    assert before not in others and len(others) == 6
    with pytest.raises(RequestError, match=r"gone\.onnx"):
        fingerprint("ocr", 1, {"side": 1}, [tmp_path / "gone.onnx"])


@given(st.integers(1, 40_000), st.integers(64, 3000))
def test_tiles_cover_every_row_and_overlap(height: int, tile: int) -> None:
    tiles = tile_rows(height, tile)
    assert tiles[0][0] == 0 and tiles[-1][1] == height
    assert all(bottom - top <= tile for top, bottom in tiles)
    assert all(first[1] - second[0] >= tile // 8 and first[0] < second[0] for first, second in pairwise(tiles))


@given(st.integers(SMALLEST, 30_000), st.integers(SMALLEST, 30_000), st.integers(64, 2000))
def test_every_view_is_inside_the_picture_and_bounded(width: int, height: int, max_side: int) -> None:
    views = plan_views(width, height, max_side)
    assert views[0].top == 0 and views[-1].bottom == height
    # Both sides are rounded to multiples of 32 or 64, of at least 32.
    most = max_side**2 / PAGE
    for view in views:
        rows = view.bottom - view.top
        first = view.scale
        assert 0 < first <= ENLARGE
        assert first**2 * width * rows <= 1.1 * max(most, ENLARGE**2 * SMALL**2)
        assert view.near == 0 or first * CLOSER * 0.95 <= view.near <= 2.05 * first


def a_line(left: float, top: float, right: float, bottom: float, text: str, score: float = 0.9) -> Line:
    return Line(text, score, (left, top, right, top, right, bottom, left, bottom))


def test_of_two_tiles_lines_the_better_stays() -> None:
    lines = [
        a_line(0, 100, 200, 130, "from above", 0.8),
        a_line(2, 101, 201, 131, "from below", 0.9),
        a_line(0, 140, 200, 170, "another"),
    ]
    assert sorted(texts(drop_doubles(lines))) == ["another", "from below"]


@given(st.permutations(range(6)))
def test_columns_of_two_registers_are_read_one_after_the_other(order: list[int]) -> None:
    lines = [
        a_line(0, 0, 290, 30, "a"),
        a_line(200, 50, 230, 290, "b"),
        a_line(100, 50, 130, 170, "c"),
        a_line(101, 190, 131, 290, "d"),
        a_line(200, 350, 230, 560, "e"),
        a_line(100, 348, 130, 520, "f"),
    ]
    assert texts(order_lines([lines[place] for place in order])) == list("abcdef")


@given(st.permutations(range(6)))
def test_reading_order_does_not_depend_on_the_order_found(order: list[int]) -> None:
    lines = [
        a_line(0, 0, 90, 30, "a"),
        a_line(100, 4, 190, 34, "b"),
        a_line(200, -3, 290, 27, "c"),
        a_line(0, 50, 90, 80, "d"),
        a_line(100, 53, 190, 83, "e"),
        a_line(0, 100, 290, 130, "f"),
    ]
    assert texts(order_lines([lines[place] for place in order])) == list("abcdef")
