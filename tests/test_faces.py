"""Faces in pictures: by the cascade that is always there, by YuNet where its file is."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weibotag.backends.faces_opencv import Haar, YuNet, score_weight
from weibotag.errors import RequestError
from weibotag.media import Frame, frames_table
from weibotag.schema import arrow_schema
from weibotag.stages.faces import Faces

SHARED = Path(os.environ.get("WEIBOTAG_SHARED", Path(__file__).parents[2] / "shared"))
MODELS = SHARED / "models"
# Two faces of sample_bus.jpg, by hand: x, y of their middles, pixels.
MIDDLES = [(133, 445), (287, 449)]


@pytest.fixture
def street() -> np.ndarray:
    path = MODELS / "sample_bus.jpg"
    if not path.is_file():
        pytest.skip(f"no {path}: set WEIBOTAG_SHARED to the folder of real data")
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def with_yunet(monkeypatch: pytest.MonkeyPatch) -> None:
    if not list(MODELS.glob("face_detection_yunet*.onnx")):
        pytest.skip(f"no YuNet file in {MODELS}: set WEIBOTAG_SHARED to the folder of real data")
    monkeypatch.setenv("WEIBOTAG_MODELS", str(MODELS))


@pytest.fixture
def haar_stage() -> Iterator[Faces]:
    stage = Faces(Faces.Config(backend="haar", min_score=0.6))
    stage.open()
    yield stage
    stage.close()


def find(stage: Faces, *pictures: np.ndarray) -> list[dict]:
    table = stage.process(frames_table([Frame(str(number), picture) for number, picture in enumerate(pictures)]))
    assert table.schema == arrow_schema("faces")
    return table.to_pylist()


def check_street_faces(faces: list[dict]) -> None:
    assert len(faces) == 2
    found = sorted((face["box"][0] + face["box"][2] / 2, face["box"][1] + face["box"][3] / 2) for face in faces)
    assert np.abs(np.array(found) - MIDDLES).max() < 15
    assert all(0.6 <= face["score"] <= 1 and 25 < face["box"][2] < 90 for face in faces)


def odd_pictures() -> list[np.ndarray]:
    shapes = [(1, 1), (200, 300), (23, 900), (5000, 30), (1, 6000), (24, 24)]
    return [np.full((*shape, 3), 255, np.uint8) for shape in shapes]


def test_haar_finds_the_faces_of_a_street(haar_stage: Faces, street: np.ndarray) -> None:
    faces = find(haar_stage, street)[0]["faces_found"]
    check_street_faces(faces)
    assert all(face["landmarks"] == [] and face["name"] is None for face in faces)


def test_haar_finds_no_face_where_none_is(haar_stage: Faces) -> None:
    rows = find(haar_stage, *odd_pictures())
    assert [row["faces_found"] for row in rows] == [[]] * 6
    assert all(row["faces_error"] is None for row in rows)


def test_yunet_finds_the_faces_of_a_street_and_their_landmarks(with_yunet: None, street: np.ndarray) -> None:
    stage = Faces(Faces.Config(backend="yunet"))
    stage.open()
    rows = find(stage, street, *odd_pictures())
    check_street_faces(rows[0]["faces_found"])
    for face in rows[0]["faces_found"]:
        left, top, width, height = face["box"]
        xs, ys = np.array(face["landmarks"][0::2]), np.array(face["landmarks"][1::2])
        assert len(xs) == 5
        assert ((xs > left) & (xs < left + width)).all() and ((ys > top) & (ys < top + height)).all()
    assert [row["faces_found"] for row in rows[1:]] == [[]] * 6
    assert find(stage, *odd_pictures(), street)[-1]["faces_found"] == rows[0]["faces_found"]
    stage.close()


def test_yunet_answers_the_same_for_a_picture_whatever_came_before(with_yunet: None, street: np.ndarray) -> None:
    backend = YuNet()
    backend.open()
    pictures = [np.asarray(Image.fromarray(street).resize(size)) for size in [(24, 24), (600, 30), (30, 600), (300, 200)]]
    first = [backend.find(picture) for picture in pictures]
    for _ in range(6):
        assert [backend.find(picture) for picture in reversed(pictures)] == first[::-1]


def test_auto_is_yunet_where_its_file_is_and_haar_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WEIBOTAG_MODELS", raising=False)
    without = Faces(Faces.Config())
    assert without.config.backend == "haar"
    assert without.fingerprint() == Faces(Faces.Config(backend="haar")).fingerprint()
    (tmp_path / "face_detection_yunet_2023mar.onnx").write_bytes(b"old")
    (tmp_path / "face_detection_yunet_2026may.onnx").write_bytes(b"new")
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    at_hand = Faces(Faces.Config())
    assert at_hand.config.backend == "yunet"
    assert at_hand.fingerprint() == Faces(Faces.Config(backend="yunet")).fingerprint() != without.fingerprint()
    assert YuNet().weights() == [tmp_path / "face_detection_yunet_2026may.onnx"]
    assert pickle.loads(pickle.dumps(at_hand)).fingerprint() == at_hand.fingerprint()


def test_yunet_without_its_file_says_where_it_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    with pytest.raises(RequestError, match="WEIBOTAG_MODELS"):
        Faces(Faces.Config(backend="yunet")).fingerprint()
    monkeypatch.delenv("WEIBOTAG_MODELS")
    with pytest.raises(RequestError, match="not set"):
        Faces(Faces.Config(backend="yunet")).open()


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(RequestError, match="haar"):
        Faces(Faces.Config(backend="harr")).open()


def test_a_picture_that_breaks_the_library_is_a_reason(haar_stage: Faces) -> None:
    import cv2

    class Broken:
        def detectMultiScale3(self, *_: object, **__: object) -> None:
            raise cv2.error("no\nmemory")

    haar_stage._backend._cascade = Broken()
    row = find(haar_stage, np.full((90, 90, 3), 255, np.uint8))[0]
    assert row["faces_found"] is None and row["faces_error"] == "no memory"


def test_the_cascade_file_is_there_and_its_scores_rise() -> None:
    assert Haar().weights()[0].is_file()
    scores = [score_weight(weight) for weight in (-5.0, 52.0, 54.0, 56.0, 60.0)]
    assert scores == sorted(scores) and scores[0] >= 0 and scores[2] == 0.5 and scores[-1] <= 1
