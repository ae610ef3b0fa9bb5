"""Pictures to vectors."""

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from weibotag.media import frame_pixels
from weibotag.registry import load
from weibotag.schema import arrow_schema
from weibotag.stages.stage import fingerprint


class Embed:
    """Frames in; one float16 vector per frame out."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "media_id"
    reads: ClassVar[tuple[str, ...]] = ("frames",)
    adds: ClassVar[pa.Schema] = arrow_schema("embed")

    class Config(BaseModel):
        """Which backend makes the vectors."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        backend: str = "ppocr"

    def __init__(self, config: Config) -> None:
        self.config = config
        self._backend: Any = None

    def fingerprint(self) -> str:
        """Return the name of this stage's answers; no model is loaded."""
        return fingerprint(self.name, self.version, self.config, load("embed", self.config.backend)().weights())

    def open(self) -> None:
        """Load the model, to run on one thread."""
        self._backend = load("embed", self.config.backend)()
        self._backend.open(threads=1)

    def process(self, table: pa.Table) -> pa.Table:
        """Return a row of schema "embed" for each frame of `table`, in order."""
        vectors: list[np.ndarray | None] = []
        reasons: list[str | None] = []
        for row in range(len(table)):
            try:
                vectors.append(self._backend.embed(frame_pixels(table, row)))
                reasons.append(None)
            except self._backend.errors as error:
                vectors.append(None)
                reasons.append(" ".join(str(error).split())[:200])
        rows = {
            "media_id": table["media_id"],
            "embed_vector": pa.array(vectors, self.adds.field("embed_vector").type),
            "embed_error": pa.array(reasons, pa.string()),
        }
        return pa.table(rows, schema=self.adds)

    def close(self) -> None:
        """Let the model go."""
        self._backend.close()
        self._backend = None
