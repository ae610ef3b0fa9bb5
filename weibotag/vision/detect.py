"""Objects in pictures."""

from typing import ClassVar

from pydantic import Field

from weibotag.vision.backend import DetectedObject
from weibotag.vision.object_names import chinese_name
from weibotag.vision.stage import PictureStage, Row, StageConfig, Struct, Wording


class Detect(PictureStage[list[DetectedObject]]):
    """Find the objects of each picture."""

    name: ClassVar[str] = "detect"
    version: ClassVar[int] = 2
    kinds: ClassVar[tuple[str, ...]] = ("object",)
    nominal_ms: ClassVar[float] = 7.0
    finds: ClassVar[str] = "detect_objects"

    class Config(StageConfig):
        """`model`: a file, folder or name that the backend takes (null: its default); `min_score`: 0 to 1.

        `classes`: what to look for ("prompt=label"), for detectors of an open vocabulary; `size`: input side, pixels (null:
        the model's own).
        """

        backend: str = "ultralytics"
        model: str | None = None
        min_score: float = Field(default=0.3, ge=0, le=1)
        classes: tuple[str, ...] = ()
        size: int | None = Field(default=None, ge=32, le=4096)
        allow_pickle: bool = False
        device: str = "auto"

    def describe(self, answer: list[DetectedObject]) -> list[Struct]:
        """Return a value of the column `detect_objects`."""
        return [vars(found) | {"label_zh": chinese_name(found.label)} for found in answer]

    @staticmethod
    def words(row: Row) -> list[Wording]:
        """Return the labels of a picture's objects, best first: each once, in Chinese where there is a name, and as is."""
        best: dict[str, Wording] = {}
        for found in row["detect_objects"] or ():
            for word in filter(None, (found["label_zh"], found["label"])):
                best.setdefault(word, Wording(word, "object", found["score"], found["box"]))
        return list(best.values())
