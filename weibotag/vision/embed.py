"""Pictures to vectors, and what they look like as a whole."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from weibotag.vision.backend import PictureVector
from weibotag.vision.backends.embed_transformers import choose_precision
from weibotag.vision.object_names import find_thing, read_things
from weibotag.vision.stage import PictureStage, Row, StageConfig, Wording

# Of photos of clothes and groceries nine of ten classes and kinds were right from here on.
SURE = 0.5
GUESSES, LEAST = 5, 0.01

CLASS_FIELDS = "number", "score"


class Embed(PictureStage[PictureVector]):
    """Frames in; one float16 vector per frame out, and those of the cells of a grid where one is asked for."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 4
    # By a codebook, by names of tags in the space of the vectors, and by the network's own classes.
    kinds: ClassVar[tuple[str, ...]] = ("code", "clip", "looks", "guess")
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

    @property
    def tells_classes(self) -> bool:
        """Tell whether the backend tells classes, so that pictures say words without a codebook."""
        return bool(getattr(self._backend_class(), "tells_classes", False))

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

    @staticmethod
    def words(row: Row) -> list[Wording]:
        """Return what a picture looks like, by its likeliest classes: its class where that is sure, else their sure kind.

        That is said in Chinese and, where it has an English name, in English. Other classes are guesses. Classes that are
        no kind of thing, such as the grocery store that each shelf looks like, are not said.
        """
        _, named = read_things()
        classes = [(named[one["number"]], one["score"]) for one in row.get("embed_classes") or ()]
        classes = [(thing, score) for thing, score in classes if thing.means]
        sums: Counter[str] = Counter()
        for thing, score in classes:
            sums.update(dict.fromkeys((thing.chinese[0], *thing.means), score))
        words = (word for thing, _ in classes for word in (thing.chinese[0], *thing.means))
        sure = next((word for word in words if sums[word] >= SURE), "")
        thing = find_thing(sure)
        said = [sure, *(thing.english[:1] if thing else ())] if sure else []
        looks = [Wording(word, "looks", min(1.0, sums[sure])) for word in said]
        others = [(thing.chinese[0], score) for thing, score in classes[:GUESSES] if score >= LEAST]
        return looks + [Wording(word, "guess", score) for word, score in dict(others).items() if word != sure]

    @classmethod
    def agree(cls, one: Row, other: Row) -> bool:
        """Tell whether the likeliest class of one is among the likely ones of the other."""
        first, second = ([found["number"] for found in row.get("embed_classes") or ()] for row in (one, other))
        return not first or first[0] in second[:GUESSES]
