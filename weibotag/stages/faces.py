"""Faces in pictures."""

from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from weibotag.media import frame_pixels
from weibotag.registry import load
from weibotag.schema import arrow_schema
from weibotag.stages.stage import fingerprint


class Faces:
    """Find the faces of each picture."""

    name: ClassVar[str] = "faces"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "media_id"
    reads: ClassVar[tuple[str, ...]] = ("frames",)
    adds: ClassVar[pa.Schema] = arrow_schema("faces")

    class Config(BaseModel):
        """`backend`: haar, yunet, or auto (yunet where its file is at hand); `min_score`: faces below it are left out.

        Below 0.8 YuNet takes plums and pears for faces; real ones score 0.85 and more.
        """

        model_config = ConfigDict(extra="forbid", frozen=True)

        backend: str = "auto"
        min_score: float = Field(default=0.8, ge=0, le=1)

    def __init__(self, config: Config) -> None:
        # Chosen here, once: workers look for no files, and the fingerprint names the backend that answers.
        self.config = config.model_copy(update={"backend": choose_backend()}) if config.backend == "auto" else config
        self._backend: Any = None

    def fingerprint(self) -> str:
        """Return the name of this stage's answers; no model is loaded."""
        return fingerprint(self.name, self.version, self.config, self._make_backend().weights())

    def open(self) -> None:
        """Load the model, to run on one thread."""
        self._backend = self._make_backend()
        self._backend.open()

    def process(self, table: pa.Table) -> pa.Table:
        """Return a table of schema `faces` for a table of schema `frames`."""
        faces: list[list[dict[str, Any]] | None] = []
        reasons: list[str | None] = []
        for row in range(len(table)):
            try:
                found = self._backend.find(frame_pixels(table, row))
            except self._backend.errors as error:
                faces.append(None)
                reasons.append(" ".join(str(error).split())[:200])
                continue
            faces.append(
                [
                    {"score": face.score, "box": face.box, "landmarks": face.landmarks, "name": None}
                    for face in found
                    if face.score >= self.config.min_score
                ]
            )
            reasons.append(None)
        return pa.table({"media_id": table["media_id"], "faces_found": faces, "faces_error": reasons}, schema=self.adds)

    def close(self) -> None:
        """Let the model go."""
        self._backend.close()
        self._backend = None

    def _make_backend(self) -> Any:
        return load("faces", self.config.backend)()


def choose_backend() -> str:
    """Return yunet where its file is at hand, else haar."""
    from weibotag.backends.faces_opencv import find_yunet

    return "haar" if find_yunet() is None else "yunet"
