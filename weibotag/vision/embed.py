"""Pictures to vectors."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from weibotag.vision.backend import PictureVector
from weibotag.vision.backends.embed_transformers import choose_precision
from weibotag.vision.stage import PictureStage, StageConfig

CLASS_FIELDS = "number", "score"


class Embed(PictureStage[PictureVector]):
    """Frames in; one float16 vector per frame out, and those of the cells of a grid where one is asked for."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 3
    # By a codebook, and by names of tags in the space of the vectors.
    kinds: ClassVar[tuple[str, ...]] = ("code", "clip")
    nominal_ms: ClassVar[float] = 4.0
    finds: ClassVar[str] = "embed_vector"

    class Config(StageConfig):
        """`backend`: efficientnet, ppocr, detector, transformers, chineseclip; `grid`: how many cells a side a picture has.

        `model`: a file, a folder, or a name that the backend takes (null: its default). The rest is for the last two.
        `precision`: auto is float16 on a GPU, on a CPU bfloat16 where that has instructions for it, else float32.
        """

        backend: str = "efficientnet"
        grid: int = Field(0, ge=0, le=4)
        model: str | None = None
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
        device: str = "auto"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.precision == "auto" and "precision" in self._settings():
            # Chosen here, once: the fingerprint names it, and whoever tags with a model asks for that of its training.
            self.config = config.model_copy(update={"precision": choose_precision(config.device)})

    @property
    def reads_texts(self) -> bool:
        """Tell whether the backend gives texts vectors in the space of its pictures' vectors."""
        return hasattr(self._backend_class(), "encode_texts")

    def fill(self, answers: Sequence[PictureVector | None]) -> dict[str, list[Any]]:
        """Return the vectors, the patches where there is a grid, and classes where the network knows some."""
        patches = [None if answer is None or answer.patches is None else list(answer.patches) for answer in answers]
        classes = [answer and [dict(zip(CLASS_FIELDS, one, strict=True)) for one in answer.classes] for answer in answers]
        vectors = [answer and answer.vector for answer in answers]
        return {"embed_vector": vectors, "embed_patches": patches, "embed_classes": classes}

    def _settings(self) -> dict[str, object]:
        # A picture that is not cut has the answers, and the fingerprint, of those from before there were grids.
        return {name: value for name, value in super()._settings().items() if name != "grid" or value}

    def encode_texts(self, texts: Sequence[str], threads: int = 1) -> tuple[np.ndarray, float]:
        """Load the model; return vectors of texts beside pictures', float32 (n, d), unit length, and the cosines' scale."""
        backend: Any = self._make_backend()
        backend.open(threads)
        try:
            return backend.encode_texts(texts), backend.scale
        finally:
            backend.close()
