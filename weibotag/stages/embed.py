"""Pictures to vectors."""

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from weibotag.media import frame_pixels
from weibotag.registry import load
from weibotag.schema import arrow_schema
from weibotag.stages.stage import fingerprint


class EmbedConfig(BaseModel):
    """Settings of the stage: which backend makes the vectors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    backend: str = "ppocr"


class Embed:
    """Frames in; one float16 vector per frame out."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "media_id"
    reads: ClassVar[tuple[str, ...]] = ("frames",)
    adds: ClassVar[pa.Schema] = arrow_schema("embed")
    Config: ClassVar[type[EmbedConfig]] = EmbedConfig

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config
        self._backend = load("embed", config.backend)()

    def weights(self) -> list[Path]:
        """Return the files of weights that the answers depend on."""
        return self._backend.weights()

    def fingerprint(self) -> str:
        """Return the name of this stage's answers without loading the model."""
        return fingerprint(self.name, self.version, self.config, self.weights())

    def open(self) -> None:
        """Load the model, once per worker."""
        self._backend.open(threads=1)

    def process(self, table: pa.Table) -> pa.Table:
        """Return a row of schema "embed" for each frame of `table`, in order."""
        vectors = [self._backend.embed(frame_pixels(table, row)) for row in range(len(table))]
        rows = {
            "media_id": table["media_id"],
            "embed_vector": pa.array(vectors, self.adds.field("embed_vector").type),
            "embed_error": pa.nulls(len(table), pa.string()),
        }
        return pa.table(rows, schema=self.adds)

    def close(self) -> None:
        """Let the model go."""
        self._backend.close()
