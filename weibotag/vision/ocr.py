"""Text in pictures."""

from difflib import SequenceMatcher
from typing import ClassVar, Literal

from pydantic import Field

from weibotag.vision.backend import Line
from weibotag.vision.stage import PictureStage, Row, StageConfig, Struct, Wording

# Two readings of one text are that alike, and more; of what it is less sure of, no two need be.
ALIKE, SURE = 0.9, 0.8


class Ocr(PictureStage[list[Line]]):
    """Read the lines of text of each picture."""

    name: ClassVar[str] = "ocr"
    version: ClassVar[int] = 3
    kinds: ClassVar[tuple[str, ...]] = ("ocr",)
    nominal_ms: ClassVar[float] = 25.0
    finds: ClassVar[str] = "ocr_lines"
    own: ClassVar[frozenset[str]] = frozenset({"backend", "min_score"})

    class Config(StageConfig):
        """`min_score`: lines below it are left out, 0 to 1; `max_side`: long side that text is searched at, pixels.

        `engine`: what runs the networks (auto: onnxruntime); `model`: paddleocr's.
        """

        backend: str = "rapidocr"
        min_score: float = Field(default=0.5, ge=0, le=1)
        max_side: int = Field(default=800, ge=64, le=4096)
        engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
        model: str | None = None
        device: str = "auto"

    def describe(self, answer: list[Line]) -> list[Struct]:
        """Return a value of the column `ocr_lines`."""
        return [vars(line) for line in answer if line.score >= self.config.min_score]

    @staticmethod
    def words(row: Row) -> list[Wording]:
        """Return the lines of a picture, in reading order."""
        return [Wording(line["text"], "ocr", line["score"], line["box"]) for line in row["ocr_lines"] or ()]

    @classmethod
    def agree(cls, one: Row, other: Row) -> bool:
        """Tell whether two rows have the same text but for a tenth, lines that are hard to read aside."""
        first, second = ("".join(line.word for line in cls.words(row) if line.score >= SURE) for row in (one, other))
        return SequenceMatcher(None, first, second, autojunk=False).ratio() >= ALIKE
