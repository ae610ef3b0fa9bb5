"""Text in pictures."""

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from weibotag.media import frame_pixels
from weibotag.registry import load
from weibotag.schema import arrow_schema
from weibotag.stages.stage import fingerprint


class Ocr:
    """Read the lines of text of each picture."""

    name: ClassVar[str] = "ocr"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "media_id"
    reads: ClassVar[tuple[str, ...]] = ("frames",)
    adds: ClassVar[pa.Schema] = arrow_schema("ocr")

    class Config(BaseModel):
        """`min_score`: lines below it are left out, 0 to 1; `max_side`: long side that text is searched at, pixels."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        backend: str = "rapidocr"
        min_score: float = Field(default=0.5, ge=0, le=1)
        max_side: int = Field(default=960, ge=64, le=4096)

    def __init__(self, config: Config) -> None:
        self.config = config
        self._backend: Any = None

    def fingerprint(self) -> str:
        """Return the name of this stage's answers; no model is loaded."""
        return fingerprint(self.name, self.version, self.config, self._weights())

    def open(self) -> None:
        """Load the models, to run on one thread: workers share the cores by parts, not by threads."""
        self._backend = self._make_backend()
        self._backend.open(threads=1)

    def process(self, table: pa.Table) -> pa.Table:
        """Return a table of schema `ocr` for a table of schema `frames`."""
        lines: list[list[dict[str, Any]] | None] = []
        reasons: list[str | None] = []
        for row in range(len(table)):
            try:
                found = self._backend.read(frame_pixels(table, row))
            except self._backend.errors as error:
                lines.append(None)
                reasons.append(f"{type(error).__name__}: {last_line(error)}")
                continue
            lines.append(
                [
                    {"text": line.text, "score": line.score, "box": line.box}
                    for line in found
                    if line.score >= self.config.min_score
                ]
            )
            reasons.append(None)
        return pa.table({"media_id": table["media_id"], "ocr_lines": lines, "ocr_error": reasons}, schema=self.adds)

    def close(self) -> None:
        """Let the models go."""
        self._backend.close()
        self._backend = None

    def _make_backend(self) -> Any:
        return load("ocr", self.config.backend)(max_side=self.config.max_side)

    def _weights(self) -> list[Path]:
        return self._make_backend().weights()


def last_line(error: Exception) -> str:
    """Return the last line of an error's text: libraries put whole tracebacks into it."""
    return (str(error).strip().splitlines() or ["no message"])[-1][:200]
