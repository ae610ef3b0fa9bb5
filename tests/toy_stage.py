"""A stage in one file, as small as one can be: how bright a picture is."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from weibotag.core.schema import Column, arrow_schema
from weibotag.vision.media.pictures import frame_pixels
from weibotag.vision.registry import Entry
from weibotag.vision.stage import PictureStage, StageConfig, Wording

ENTRY = Entry("toy_stage:Brightness", (), None, "Apache-2.0")
COLUMNS = (
    Column("media_id", pa.string(), "media", "one picture or frame"),
    Column("toy_brightness", pa.float32(), "toy", "mean of all values, 0 to 255"),
    Column("toy_error", pa.string(), "toy", "why there is no brightness; null when there is one"),
)


class Brightness(PictureStage):
    name: ClassVar[str] = "toy"
    version: ClassVar[int] = 1
    kinds: ClassVar[tuple[str, ...]] = ("light",)
    nominal_ms: ClassVar[float] = 0.5
    finds: ClassVar[str] = "toy_brightness"

    class Config(StageConfig):
        backend: str = "mean"
        bright: float = 128.0

    def fingerprint(self) -> str:
        return f"{int(self.config.bright):012d}"

    def open(self, threads: int = 1) -> None:
        pass

    def process(self, table: pa.Table) -> pa.Table:
        means = [float(np.mean(frame_pixels(table, row))) for row in range(len(table))]
        columns = {"media_id": table["media_id"], "toy_brightness": means, "toy_error": [None] * len(table)}
        return pa.table(columns, schema=arrow_schema("toy"))

    def close(self) -> None:
        pass

    @property
    def alone(self) -> bool:
        return False

    @staticmethod
    def words(row: Mapping[str, Any]) -> list[Wording]:
        return [Wording("bright" if row["toy_brightness"] > 128 else "dark", "light", 1.0)]
