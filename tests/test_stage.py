"""What stages that look at pictures share: settings that backends take, batches in halves, libraries that must be alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.extraction.schedule import group_stages
from weibotag.vision import registry
from weibotag.vision.backends.onnx_session import open_session
from weibotag.vision.media.pictures import Frame, frames_table
from weibotag.vision.registry import Entry
from weibotag.vision.stage import Fault, PictureStage, StageConfig, look_in_halves


class Counting:
    """A backend whose answer is the number of a picture's pixels, and which fails as told."""

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, most: int = 100, sides: tuple[int, ...] = (), device: str = "auto") -> None:
        self.most, self.sides = most, sides
        self.asked: list[int] = []

    def weights(self) -> list[Path]:
        return []

    def open(self, threads: int = 1) -> None:
        self.errors = (ValueError,)

    def look(self, pictures: Sequence[np.ndarray]) -> list[list[Any]]:
        self.asked.append(len(pictures))
        if len(pictures) > self.most:
            raise ValueError("CUDA out of memory. Tried to allocate 2 GiB")
        if any(picture.shape[0] in self.sides for picture in pictures):
            raise ValueError("first line\ncan't look at this")
        return [[{"text": str(picture.size), "score": 1.0, "box": []}] for picture in pictures]

    def close(self) -> None:
        pass


class Sizes(PictureStage):
    name: ClassVar[str] = "ocr"
    version: ClassVar[int] = 1
    finds: ClassVar[str] = "ocr_lines"
    own: ClassVar[frozenset[str]] = frozenset({"backend", "shout"})

    class Config(StageConfig):
        backend: str = "counting"
        most: int = 100
        sides: tuple[int, ...] = ()
        shout: bool = False
        speed: int = 1
        device: str = "auto"

    def describe(self, answer: Any) -> Any:
        return answer


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(f"{__name__}:Counting", (), None, "Apache-2.0")
    monkeypatch.setitem(registry.REGISTRY, ("ocr", "counting"), entry)


def frames(sides: Sequence[int]) -> pa.Table:
    return frames_table([Frame(f"m{n}", np.zeros((side, 10, 3), np.uint8)) for n, side in enumerate(sides)])


def look(stage: Sizes, sides: Sequence[int]) -> pa.Table:
    stage.open()
    return stage.process(frames(sides))


def test_each_picture_has_its_row_and_only_the_bad_one_a_reason() -> None:
    found = look(Sizes(Sizes.Config(sides=(7,))), [5, 7, 6, 8])
    assert found.schema == arrow_schema("ocr")
    assert found["media_id"].to_pylist() == ["m0", "m1", "m2", "m3"]
    assert found["ocr_error"].to_pylist() == [None, "ValueError: can't look at this", None, None]
    assert [lines and lines[0]["text"] for lines in found["ocr_lines"].to_pylist()] == ["150", None, "180", "240"]


def test_a_batch_that_is_too_much_for_the_memory_is_halved_and_stays_so() -> None:
    stage = Sizes(Sizes.Config(most=4))
    found = look(stage, range(1, 17))
    assert found["ocr_error"].null_count == 16
    stage._backend.asked.clear()
    stage.process(frames(range(1, 17)))
    assert stage._backend.asked == [4, 4, 4, 4]


@given(st.lists(st.integers(1, 9), max_size=20), st.sets(st.integers(1, 9)), st.integers(1, 20))
def test_halves_answer_what_one_by_one_would(sides: list[int], bad: set[int], most: int) -> None:
    backend = Counting(most, tuple(bad))
    backend.open()
    pictures = [np.zeros((side, 1, 3), np.uint8) for side in sides]
    answers = look_in_halves(backend.look, pictures, backend.errors) if pictures else []
    assert [isinstance(answer, Fault) for answer in answers] == [side in bad for side in sides]
    assert [answer[0]["text"] for answer in answers if not isinstance(answer, Fault)] == [
        str(3 * side) for side in sides if side not in bad
    ]


def test_an_error_that_the_backend_does_not_name_is_the_parts() -> None:
    def stumble(pictures: Sequence[np.ndarray]) -> list[Any]:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        look_in_halves(stumble, [np.zeros((1, 1, 3), np.uint8)], (ValueError,))


def test_the_fingerprint_names_what_an_answer_is_and_not_where_it_was_made() -> None:
    plain = Sizes(Sizes.Config()).fingerprint()
    assert plain == Sizes(Sizes.Config(device="cpu")).fingerprint()
    others = [Sizes(Sizes.Config(**given)).fingerprint() for given in ({"most": 2}, {"shout": True}, {"sides": (1,)})]
    assert len({plain, *others}) == 4


def test_a_setting_that_the_backend_does_not_take_is_refused() -> None:
    with pytest.raises(RequestError, match=r"\[ocr\]: speed is no setting of the backend 'counting'"):
        Sizes(Sizes.Config(speed=2)).fingerprint()
    again = Sizes.Config.model_validate_json(json.dumps(Sizes.Config().model_dump(mode="json")))
    assert Sizes(again).fingerprint() == Sizes(Sizes.Config()).fingerprint()


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_is_not_there_is_said_before_any_work() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a GPU")
    with pytest.raises(RequestError, match=r"\[ocr\] device: onnxruntime sees no GPU here"):
        Sizes(Sizes.Config(device="cuda")).fingerprint()
    place = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", place[:1], place[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(RequestError, match="device cuda: onnxruntime can't use CUDA here"):
        open_session(model, device="cuda")
    assert open_session(model).run(None, {"x": np.ones(1, np.float32)}) == [1]


def test_a_library_that_must_be_alone_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stages: dict[str, Any] = {name: Sizes(Sizes.Config()) for name in ("ocr", "faces", "embed")}
    assert group_stages(stages) == [["ocr", "faces", "embed"]]
    assert group_stages({}) == [[]]
    monkeypatch.setattr(Counting, "alone", True, raising=False)
    assert group_stages(stages) == [["ocr"], ["faces"], ["embed"]]
