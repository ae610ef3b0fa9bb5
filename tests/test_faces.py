"""Faces in pictures: by the cascade that is always there, by YuNet where its file is; whose they are, as vectors."""

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of
from weibotag.core.schema import arrow_schema
from weibotag.vision.backends.faces_opencv import Haar, YuNet, score_weight
from weibotag.vision.backends.faces_vectors import TEMPLATE, FaceVectors, align, find_face_model, fit_similarity
from weibotag.vision.faces import Faces
from weibotag.vision.media.pictures import Frame, frames_table
from weibotag.vision.weights import catalogue

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
    for name in ("face_detection_yunet_2026may.onnx", "mobilefacenet.onnx"):
        if not (MODELS / name).is_file():
            pytest.skip(f"no {name} in {MODELS}: set WEIBOTAG_SHARED to the folder of real data")
    monkeypatch.setenv("WEIBOTAG_MODELS", str(MODELS))


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither $WEIBOTAG_MODELS nor a cache with models in it."""
    monkeypatch.delenv("WEIBOTAG_MODELS", raising=False)
    monkeypatch.setattr(catalogue, "cache_folder", lambda: tmp_path / "cache")


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
    assert all(face["name"] is None for face in faces)


def odd_pictures() -> list[np.ndarray]:
    shapes = [(1, 1), (200, 300), (23, 900), (9000, 30), (1, 6000), (24, 24)]
    return [np.full((*shape, 3), 255, np.uint8) for shape in shapes]


def save_face_model(path: Path, steps: str = "", shape: tuple[int | str, ...] = (1, 3, 112, 112)) -> Path:
    """Save a small network that takes faces: a random projection of tiles, with a range of its `own` or without."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.normal(size=(24, 3, 16, 16)).astype(np.float32),
        "middle": np.array(127.5, np.float32),
        "scale": np.array(1 / 128, np.float32),
    }
    nodes, given = [], "pixels"
    if "own" in steps:
        nodes += [
            helper.make_node("Sub", [given, "middle"], ["even"]),
            helper.make_node("Mul", ["even", "scale"], ["small"]),
        ]
        given = "small"
    nodes.append(helper.make_node("Conv", [given, "kernel"], ["tiles"], strides=[16, 16]))
    nodes.append(helper.make_node("Flatten", ["tiles"], ["vector"]))
    graph = helper.make_graph(
        nodes,
        "face",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def draw(width: int, height: int) -> np.ndarray:
    """Return a picture of soft blobs."""
    small = np.random.default_rng(1).integers(0, 256, (height // 12, width // 12, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def place(scale: float, angle: float, at: complex) -> tuple[float, ...]:
    """Return the landmarks of a face: the template turned and moved."""
    points = TEMPLATE * scale * np.exp(1j * angle) + at
    return tuple(np.stack([points.real, points.imag], axis=1).ravel().tolist())


def test_haar_finds_the_faces_of_a_street(haar_stage: Faces, street: np.ndarray) -> None:
    faces = find(haar_stage, street)[0]["faces_found"]
    check_street_faces(faces)
    assert all(face["landmarks"] == [] and face["vector"] is None for face in faces)


def test_haar_finds_no_face_where_none_is(haar_stage: Faces) -> None:
    rows = find(haar_stage, *odd_pictures())
    assert [row["faces_found"] for row in rows] == [[]] * 6
    assert all(row["faces_error"] is None for row in rows)


def test_yunet_finds_the_faces_of_a_street_their_landmarks_and_vectors(with_yunet: None, street: np.ndarray) -> None:
    stage = Faces(Faces.Config())
    assert stage.config.backend == "yunet" and stage.face_model() == MODELS / "mobilefacenet.onnx"
    stage.open()
    rows = find(stage, street, *odd_pictures())
    check_street_faces(rows[0]["faces_found"])
    for face in rows[0]["faces_found"]:
        left, top, width, height = face["box"]
        xs, ys = np.array(face["landmarks"][0::2]), np.array(face["landmarks"][1::2])
        assert len(xs) == 5
        assert ((xs > left) & (xs < left + width)).all() and ((ys > top) & (ys < top + height)).all()
        assert len(face["vector"]) == 128 and abs(np.linalg.norm(np.array(face["vector"], np.float32)) - 1) < 1e-3
    one, other = (np.array(face["vector"], np.float32) for face in rows[0]["faces_found"])
    assert one @ other < 0.5
    assert [row["faces_found"] for row in rows[1:]] == [[]] * 6
    stage.close()


def test_a_face_is_itself_upright_or_not_large_or_small(with_yunet: None, street: np.ndarray) -> None:
    backend = YuNet(vectors="mobilefacenet.onnx")
    backend.open()
    picture = Image.fromarray(street)
    others = [picture.rotate(12, Image.Resampling.BICUBIC), picture.resize((1620, 2160), Image.Resampling.BICUBIC)]
    faces = backend.look([street, *(np.asarray(other) for other in others)])
    first = np.array([face.vector for face in sorted(faces[0], key=lambda face: face.box[0])], np.float32)
    for again in faces[1:]:
        vectors = np.array([face.vector for face in sorted(again, key=lambda face: face.box[0])], np.float32)
        cosines = first @ vectors.T
        assert cosines.shape == (2, 2) and cosines.diagonal().min() > 0.6 > 0.3 > max(cosines[0, 1], cosines[1, 0])


def test_a_picture_has_its_own_answer_alone_together_and_shuffled(with_yunet: None, street: np.ndarray) -> None:
    sizes = [(24, 24), (600, 30), (30, 600), (300, 200), (810, 1080)]
    pictures = [np.asarray(Image.fromarray(street).resize(size)) for size in sizes]
    for backend in (YuNet(0.5, "mobilefacenet.onnx"), Haar(0.5)):
        backend.open()
        together = backend.look(pictures)
        assert any(together)
        assert [backend.look([picture])[0] for picture in pictures] == together
        for _ in range(3):
            assert backend.look(pictures[::-1]) == together[::-1]
        backend.close()


def test_auto_is_yunet_where_its_file_is_and_haar_elsewhere(
    bare_machine: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = Faces(Faces.Config())
    assert without.config.backend == "haar" and without.face_model() is None
    assert without.fingerprint() == Faces(Faces.Config(backend="haar")).fingerprint()
    for name in ("2023mar", "2026may", "2026may_int8"):
        (tmp_path / f"face_detection_yunet_{name}.onnx").write_bytes(name.encode())
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    at_hand = Faces(Faces.Config())
    assert at_hand.config.backend == "yunet" and at_hand.config.vectors == "none"
    assert at_hand.fingerprint() == Faces(Faces.Config(backend="yunet")).fingerprint() != without.fingerprint()
    assert at_hand._make_backend().weights() == [tmp_path / "face_detection_yunet_2026may.onnx"]
    assert pickle.loads(pickle.dumps(at_hand)).fingerprint() == at_hand.fingerprint()


def test_the_fingerprint_names_the_model_of_the_vectors_and_not_its_place(
    bare_machine: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    (tmp_path / "face_detection_yunet_2026may.onnx").write_bytes(b"detector")
    plain = Faces(Faces.Config()).fingerprint()
    (tmp_path / "mobilefacenet.onnx").write_bytes(b"faces")
    assert find_face_model() == tmp_path / "mobilefacenet.onnx"
    auto = Faces(Faces.Config()).fingerprint()
    assert auto != plain == Faces(Faces.Config(vectors="none")).fingerprint()
    shutil.copy(tmp_path / "mobilefacenet.onnx", tmp_path / "another.onnx")
    assert Faces(Faces.Config(vectors=str(tmp_path / "another.onnx"))).fingerprint() == auto
    assert Faces(Faces.Config(vectors="another.onnx")).fingerprint() == auto
    # SFace is the better one of the two.
    (tmp_path / "face_recognition_sface_2021dec.onnx").write_bytes(b"other faces")
    assert Faces(Faces.Config()).fingerprint() not in (auto, plain)


def test_what_is_not_at_hand_is_asked_for_by_its_name(bare_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(name: str, *_: object) -> Path:
        asked.append(name)
        raise RequestError("no network")

    monkeypatch.setattr(catalogue, "fetch", refuse)
    assert Faces(Faces.Config()).config.backend == "haar" and not asked
    with pytest.raises(RequestError, match="no network"):
        Faces(Faces.Config(backend="yunet")).fingerprint()
    assert len(catalogue.match(asked[0])) == 2


def test_vectors_without_landmarks_are_refused() -> None:
    with pytest.raises(RequestError, match="yunet"):
        Faces(Faces.Config(backend="haar", vectors="mobilefacenet.onnx"))


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(RequestError, match="haar"):
        Faces(Faces.Config(backend="harr")).open()


def test_a_picture_that_breaks_the_library_is_a_reason(haar_stage: Faces) -> None:
    import cv2

    class Broken:
        def detectMultiScale3(self, *_: object, **__: object) -> None:
            raise cv2.error("no\nmemory")

    haar_stage._backend._model = Broken()
    row = find(haar_stage, np.full((90, 90, 3), 255, np.uint8))[0]
    assert row["faces_found"] is None and "memory" in row["faces_error"] and "\n" not in row["faces_error"]


def test_the_cascade_file_is_there_and_its_scores_rise() -> None:
    assert Haar().weights()[0].is_file()
    scores = [score_weight(weight) for weight in (-5.0, 52.0, 54.0, 56.0, 60.0)]
    assert scores == sorted(scores) and scores[0] >= 0 and scores[2] == 0.5 and scores[-1] <= 1


@given(st.floats(0.3, 20), st.floats(-3.1, 3.1), st.complex_numbers(max_magnitude=5000))
def test_landmarks_are_brought_back_to_the_template(scale: float, angle: float, at: complex) -> None:
    points = TEMPLATE * scale * np.exp(1j * angle) + at
    turn, shift = fit_similarity(points)
    assert np.abs(turn * points + shift - TEMPLATE).max() < 1e-3
    assert abs(abs(turn) * scale - 1) < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 9), st.floats(-3.1, 3.1))
def test_a_face_looks_the_same_at_any_size_and_angle(scale: float, angle: float) -> None:
    import cv2

    face = draw(112, 112)
    side = int(112 * scale * 1.5) + 20
    turn = scale * np.exp(1j * angle)
    shift = (1 + 1j) * side / 2 - turn * (56 + 56j)
    warp = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    picture = cv2.warpAffine(face, warp, (side, side), flags=cv2.INTER_CUBIC)
    upright = align(picture, place(scale, angle, shift))
    assert upright is not None and upright.shape == (112, 112, 3)
    off = np.abs(upright.astype(int) - face)[12:-12, 12:-12]
    assert off.mean() < 4


def test_a_face_that_is_tiny_or_nowhere_has_no_vector() -> None:
    picture = draw(400, 300)
    assert align(picture, place(0.3, 0, 50 + 50j)) is not None
    assert align(picture, place(0.2, 0, 50 + 50j)) is None
    assert align(picture, (7.0,) * 10) is None
    assert align(picture, place(1, 0, 5000 + 5000j)) is None
    assert align(picture, place(1, 0, -40 - 40j)) is not None
    assert align(draw(24, 40_000), place(1, 0, -50 + 39_000j)) is not None


def test_any_network_for_faces_of_112_pixels_will_do(tmp_path: Path) -> None:
    picture, landmarks = draw(400, 300), place(1.2, 0.3, 150 + 60j)
    files = [
        save_face_model(tmp_path / "plain.onnx"),
        save_face_model(tmp_path / "many.onnx", shape=("faces", 3, 112, 112)),
        save_face_model(tmp_path / "own.onnx", "own"),
    ]
    vectors = []
    for file in files:
        faces = FaceVectors(file)
        vector = faces.embed(picture, landmarks)
        assert vector is not None and faces.embed(picture, landmarks) == vector
        assert faces.embed(picture, place(0.1, 0, 50 + 50j)) is None
        vectors.append(np.array(vector))
    assert all(np.abs(vector - vectors[0]).max() < 1e-3 for vector in vectors[1:])
    assert abs(np.linalg.norm(vectors[0]) - 1) < 1e-3


def test_sface_takes_pixels_as_they_are_whatever_its_file_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, landmarks = draw(400, 300), place(1.2, 0.3, 150 + 60j)

    def vector_by(name: str) -> np.ndarray:
        vectors = FaceVectors(save_face_model(tmp_path / name))
        return np.array(vectors.embed(picture, landmarks))

    plain = vector_by("face_recognition_sface_2021dec.onnx")
    known = {"face_recognition_sface_2021dec.onnx": sha256_of(tmp_path / "face_recognition_sface_2021dec.onnx")}
    monkeypatch.setattr("weibotag.vision.backends.faces_vectors.known_hash", known.get)
    assert plain @ vector_by("copy.onnx") < 0.9


def test_a_network_for_something_else_is_refused(tmp_path: Path) -> None:
    file = save_face_model(tmp_path / "wide.onnx", shape=(1, 3, 224, 224))
    with pytest.raises(RequestError, match="112"):
        FaceVectors(file)
