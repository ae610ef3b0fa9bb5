"""Faces in pictures."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from weibotag.core.errors import RequestError
from weibotag.vision.backend import Face
from weibotag.vision.backends.faces_opencv import YUNET_FILE
from weibotag.vision.backends.faces_vectors import NO_VECTORS, find_face_model
from weibotag.vision.stage import PictureStage, Row, StageConfig, Struct, Wording
from weibotag.vision.weights.catalogue import at_hand

AUTO = "auto"
# What a face is called that no gallery names.
FACE_WORD = "人脸"


class Faces(PictureStage[list[Face]]):
    """Find the faces of each picture, with a vector each where there is a model for it."""

    name: ClassVar[str] = "faces"
    version: ClassVar[int] = 3
    kinds: ClassVar[tuple[str, ...]] = ("face",)
    nominal_ms: ClassVar[float] = 4.0
    finds: ClassVar[str] = "faces_found"
    own: ClassVar[frozenset[str]] = frozenset({"backend", "vectors"})

    class Config(StageConfig):
        """`backend`: haar, yunet, or auto (yunet where its file is at hand); `min_score`: faces below it are left out.

        Below 0.8 YuNet takes plums and pears for faces; real ones score 0.85 and more. `vectors`: the ONNX model that tells
        whose face it is (a path or name), auto (one that is at hand) or none; they need the landmarks of yunet.
        """

        # The fingerprint has the hash of the file that makes the vectors; where it lies says nothing.
        machine: ClassVar[frozenset[str]] = frozenset({"device", "vectors"})
        weights: ClassVar[tuple[str, ...]] = ("vectors",)

        backend: str = AUTO
        min_score: float = Field(default=0.8, ge=0, le=1)
        vectors: str = AUTO
        device: str = "auto"

    def __init__(self, config: Config) -> None:
        # Chosen here, once: workers look for no files, and the fingerprint names what answers.
        backend = ("haar" if at_hand(YUNET_FILE) is None else "yunet") if config.backend == AUTO else config.backend
        vectors = config.vectors
        if backend != "yunet" and vectors not in (AUTO, NO_VECTORS):
            raise RequestError(
                f"[faces]: vectors = {vectors!r} needs landmarks, which {backend} has not: choose backend yunet"
            )
        if vectors == AUTO:
            found = find_face_model() if backend == "yunet" else None
            vectors = NO_VECTORS if found is None else str(found)
        super().__init__(config.model_copy(update={"backend": backend, "vectors": vectors}))

    def describe(self, answer: list[Face]) -> list[Struct]:
        """Return a value of the column `faces_found`; who it is, is found when findings are read."""
        return [vars(face) | {"name": None} for face in answer]

    @staticmethod
    def words(row: Row) -> list[Wording]:
        """Return the names of a picture's faces."""
        faces = row["faces_found"] or ()
        return [Wording(face["name"] or FACE_WORD, "face", face["score"], face["box"]) for face in faces]

    def face_model(self) -> Path | None:
        """Return the file of the model that makes the vectors, or None; RequestError when it can't be found."""
        return None if self.config.vectors == NO_VECTORS else self._make_backend().weights()[-1]
