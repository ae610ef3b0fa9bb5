"""PaddleOCR on the wheel's weights: it reads what RapidOCR reads, alone, offline, and refuses bad models in one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from weibotag.core.errors import RequestError
from weibotag.vision.backend import Line
from weibotag.vision.backends.ocr_paddleocr import DETECTOR, RECOGNISER, PaddleOcr, find_folders, lay_out
from weibotag.vision.backends.ocr_rapidocr import RapidOcr

pytestmark = pytest.mark.skipif(find_spec("paddleocr") is None, reason="needs paddleocr: pip install 'weibotag[paddle]'")

# Without paddlepaddle, without network, and with a home that can't be written.
CHILD = """
import json, socket, sys
import numpy as np

sys.modules["paddle"] = None

def refuse(*words):
    raise AssertionError(f"network: {words}")

socket.socket.connect = socket.getaddrinfo = refuse
from weibotag.vision.backends.ocr_paddleocr import PaddleOcr
early = sorted({"paddleocr", "paddlex", "torch", "cv2", "onnxruntime"} & set(sys.modules))
backend = PaddleOcr()
backend.open(threads=1)
lines = backend.look([np.load(sys.argv[1])])[0]
print(json.dumps({"early": early, "texts": [line.text for line in lines]}))
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[PaddleOcr]:
    backend = PaddleOcr()
    backend.open(threads=1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    lay_out(folder)
    return folder


def latin(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        pytest.skip("this Pillow has no FreeType")
    return font


def chinese(size: int) -> ImageFont.FreeTypeFont:
    if shutil.which("fc-match") is None:
        pytest.skip("no fc-match to look for a Chinese font with")
    command = ["fc-match", "--format=%{file}|%{lang}", "sans:lang=zh-cn"]
    path, _, languages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("|")
    if "zh-cn" not in languages.split("|"):
        pytest.skip("no Chinese font")
    return ImageFont.truetype(path, size)


def write(
    size: tuple[int, int], places: list[tuple[int, int, str]], font: ImageFont.FreeTypeFont, ground: str = "white"
) -> np.ndarray:
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    for left, top, text in places:
        draw.text((left, top), text, fill="black", font=font)
    pixels = np.asarray(image)
    assert not pixels.flags.writeable
    return pixels


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_lines_are_read_in_reading_order_with_their_boxes(backend: PaddleOcr) -> None:
    places = [(300, 60, "RIGHT"), (30, 62, "LEFT"), (30, 200, "BELOW")]
    lines = backend.look([write((520, 300), places, latin(40))])[0]
    assert texts(lines) == ["LEFT", "RIGHT", "BELOW"]
    for line, (left, top) in zip(lines, [(30, 62), (300, 60), (30, 200)], strict=True):
        assert 0.8 < line.score <= 1 and line.score == round(line.score, 4)
        assert line.box == tuple(round(number, 2) for number in line.box) and len(line.box) == 8
        xs, ys = line.box[0::2], line.box[1::2]
        assert abs(min(xs) - left) < 15 and abs((min(ys) + max(ys)) / 2 - (top + 24)) < 15
        assert xs[0] < xs[1] and ys[1] < ys[2] and xs[2] > xs[3] and ys[3] > ys[0]


def test_chinese_is_read(backend: PaddleOcr) -> None:
    lines = backend.look([write((420, 120), [(20, 30, "今天天气很好")], chinese(44))])[0]
    assert texts(lines) == ["今天天气很好"]


@pytest.mark.parametrize("size", [(160, 60), (1800, 1200), (2400, 300)])
def test_boxes_fit_pictures_of_every_size(backend: PaddleOcr, size: tuple[int, int]) -> None:
    height = max(20, size[1] // 8)
    lines = backend.look([write(size, [(10, size[1] // 2, "HELLO")], latin(height))])[0]
    assert texts(lines) == ["HELLO"]
    xs, ys = lines[0].box[0::2], lines[0].box[1::2]
    assert min(xs) >= 0 and min(ys) >= size[1] // 2 - height and max(xs) <= size[0] and max(ys) <= size[1]


def test_a_tall_poster_is_read_whole_once_and_in_order(backend: PaddleOcr) -> None:
    expected = [f"LINE {number}" for number in range(100, 120)]
    places = [(30, 20 + number * 130, text) for number, text in enumerate(expected)]
    lines = backend.look([write((400, 2700), places, latin(36))])[0]
    assert [text.replace(" ", "") for text in texts(lines)] == [text.replace(" ", "") for text in expected]


def test_an_answer_depends_on_its_own_picture_alone(backend: PaddleOcr) -> None:
    pictures = [
        write((420, 120), [(20, 30, "PHONE SALE")], latin(44)),
        np.zeros((1, 1, 3), np.uint8),
        write((2000, 200), [(20, 60, "A VERY WIDE BANNER")], latin(60), "orange"),
        write((300, 1500), [(20, 60 + 90 * row, f"ROW {row}") for row in range(14)], latin(30)),
    ]
    together = backend.look(pictures)
    assert [bool(lines) for lines in together] == [True, False, True, True]
    assert [backend.look([picture])[0] for picture in pictures] == together
    assert backend.look(pictures[::-1]) == together[::-1]
    assert backend.look([]) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3000, 30), (30, 3000), (16, 16), (17, 40_000), (4096, 4096)])
def test_pictures_of_extreme_sizes_have_no_text(backend: PaddleOcr, shape: tuple[int, int]) -> None:
    assert backend.look([np.zeros((*shape, 3), np.uint8)]) == [[]]


def test_what_breaks_the_library_is_named_by_errors(backend: PaddleOcr) -> None:
    with pytest.raises(backend.errors):
        backend.look([np.zeros((100, 100, 3), np.float64)])


def test_it_agrees_with_rapidocr(backend: PaddleOcr) -> None:
    rows = [
        "限时优惠 全场满300减50元",
        "新鲜水果当天采摘 次日送达",
        "扫码关注公众号领取优惠券",
        "地址：人民路128号 SUMMER SALE",
    ]
    pictures = [
        write((640, 960), [(40, 60 + 200 * at, row) for at, row in enumerate(rows)], chinese(34), "gold"),
        write((360, 280), [(20, 180, "加班使我快乐"), (20, 20, "周一早上的我")], chinese(48), "pink"),
        write((1080, 700), [(60, 50 + 150 * at, row * 2) for at, row in enumerate(rows)], chinese(26)),
        write((480, 320), [(30, 40, "Hello World 2026"), (30, 160, "BEST PRICE $19.99")], latin(46), "skyblue"),
    ]
    other = RapidOcr()
    other.open(threads=1)
    theirs = other.look(pictures) if hasattr(other, "look") else [other.read(picture) for picture in pictures]
    common = total = 0
    for one, two in zip(backend.look(pictures), theirs, strict=True):
        a, b = "".join(texts(one)), "".join(texts(two))
        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        common, total = common + 2 * sum(block.size for block in blocks), total + len(a) + len(b)
    assert total > 300
    assert common / total >= 0.97


@pytest.mark.slow
def test_it_needs_no_paddlepaddle_no_network_and_no_home_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file", encoding="utf-8")
    np.save(tmp_path / "picture.npy", write((420, 120), [(20, 30, "PHONE SALE")], latin(44)))
    places = {"HOME": str(tmp_path / "home"), "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "picture.npy")]
    done = subprocess.run(command, capture_output=True, text=True, env=places, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"early": [], "texts": ["PHONE SALE"]}


def test_weights_are_those_of_the_wheel() -> None:
    weights = PaddleOcr().weights()
    assert [path.name for path in weights] == [DETECTOR, RECOGNISER]
    assert all(path.is_file() for path in weights)


@pytest.mark.parametrize("form", ["{0}", "{0}/det,{0}/rec", " {0}/det , {0}/rec"])
def test_model_folders_of_the_users(models: Path, backend: PaddleOcr, form: str) -> None:
    own = PaddleOcr(model=form.format(models))
    names = [f"{kind}/{name}" for kind in ("det", "rec") for name in ("inference.yml", "inference.onnx")]
    assert own.weights() == [models / name for name in names]
    own.open(threads=1)
    picture = write((420, 120), [(20, 30, "PHONE SALE")], latin(44))
    assert texts(own.look([picture])[0]) == ["PHONE SALE"]
    assert own.look([picture]) == backend.look([picture])


def refusal(backend: PaddleOcr) -> str:
    with pytest.raises(RequestError) as caught:
        backend.open(threads=1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_without_models_are_refused(models: Path, tmp_path: Path) -> None:
    for model in (str(tmp_path / "gone"), str(tmp_path), f"{tmp_path},{tmp_path}", "a,b,c", f"{models}/det,", ""):
        with pytest.raises(RequestError):
            PaddleOcr(model=model).weights()
    assert "no inference.yml" in refusal(PaddleOcr(model=str(tmp_path)))
    assert "found 3 models" in refusal(PaddleOcr(model="a,b,c"))
    shutil.copytree(models / "det", tmp_path / "det")
    (tmp_path / "det" / "inference.onnx").unlink()
    assert "inference.onnx" in refusal(PaddleOcr(model=f"{tmp_path}/det,{models}/rec"))
    assert "the detector, then the recogniser" in refusal(PaddleOcr(model=f"{models}/rec,{models}/det"))


def test_models_for_paddlepaddle_name_what_is_missing(models: Path, tmp_path: Path) -> None:
    if find_spec("paddle") is not None:
        pytest.skip("paddlepaddle is installed")
    for kind in ("det", "rec"):
        (tmp_path / kind).mkdir()
        shutil.copy(models / kind / "inference.yml", tmp_path / kind)
        for name in ("inference.json", "inference.pdiparams"):
            (tmp_path / kind / name).write_bytes(b"")
    assert "pip install paddlepaddle" in refusal(PaddleOcr(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("inference.yml", b"model_name: PP-OCRv6_small_det", b"model_name: nonsense_det"),
        ("inference.yml", b"model_name: PP-OCRv6_small_det", b"other: 1"),
        ("inference.yml", b"name: DBPostProcess", b"name: EastPostProcess"),
        ("inference.onnx", b"", b"no model "),
    ],
)
def test_damaged_models_are_refused(models: Path, tmp_path: Path, file: str, before: bytes, after: bytes) -> None:
    shutil.copytree(models / "det", tmp_path / "det")
    content = (tmp_path / "det" / file).read_bytes()
    (tmp_path / "det" / file).write_bytes(content.replace(before, after, 1))
    assert str(tmp_path / "det") in refusal(PaddleOcr(model=f"{tmp_path}/det,{models}/rec"))


def test_an_official_name_is_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def note(name: str) -> Path:
        asked.append(name)
        return tmp_path

    monkeypatch.setattr("weibotag.vision.backends.ocr_paddleocr.find_model", note)
    folder = tmp_path / "own"
    folder.mkdir()
    assert find_folders(f"PP-OCRv5_server_det,{folder}") == (tmp_path, tmp_path)
    assert asked == ["hf:PaddlePaddle/PP-OCRv5_server_det_onnx", str(folder)]


def test_a_gpu_that_is_not_there_is_refused() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has CUDA here")
    assert "CUDAExecutionProvider" in refusal(PaddleOcr(device="cuda"))
