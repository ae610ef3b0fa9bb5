"""Pictures to vectors."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from weibotag.schema import arrow_schema
from weibotag.stages.stage import PictureStage, StageConfig


class Embed(PictureStage):
    """Frames in; one float16 vector per frame out."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 2
    adds: ClassVar[pa.Schema] = arrow_schema("embed")
    finds: ClassVar[str] = "embed_vector"

    class Config(StageConfig):
        """`backend`: ppocr, transformers or chineseclip; the rest is for the latter two.

        `model`: a folder, or a name that the backend takes (null: its default); `precision`: auto is float16 on a GPU, on a
        CPU bfloat16 where that has instructions for it, else float32.
        """

        backend: str = "ppocr"
        model: str | None = None
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
        device: str = "auto"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.precision == "auto" and "precision" in self._settings():
            from weibotag.backends.embed_transformers import choose_precision

            # Chosen here, once: the fingerprint names it, and whoever tags with a model asks for that of its training.
            self.config = config.model_copy(update={"precision": choose_precision(config.device)})

    @property
    def reads_texts(self) -> bool:
        """Tell whether the backend gives texts vectors in the space of its pictures' vectors."""
        return hasattr(self._backend_class(), "encode_texts")

    def describe(self, answer: np.ndarray) -> np.ndarray:
        """Return the vector."""
        return answer

    def encode_texts(self, texts: Sequence[str], threads: int = 1) -> tuple[np.ndarray, float]:
        """Load the model; return vectors of texts beside pictures', float32 (n, d), unit length, and the cosines' scale."""
        backend = self._make_backend()
        backend.open(threads)
        try:
            return backend.encode_texts(texts), backend.scale
        finally:
            backend.close()
