"""People who are vectors, and a stand-in for the faces stage that reads them off plain pictures."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from weibotag.core.schema import arrow_schema
from weibotag.vision.face_gallery import unit
from weibotag.vision.media.pictures import frame_pixels

WIDTH = 128


class People:
    """People as vectors: who they are, and photos of them."""

    def __init__(self, seed: int, alike: float = 0.3, unlike: float = 0.7) -> None:
        self._random = np.random.default_rng(seed)
        self._common = self._draw(1) * alike
        self._unlike = unlike

    def meet(self, count: int) -> np.ndarray:
        return unit(self._common + self._draw(count))

    def photograph(self, people: np.ndarray, photos: int) -> np.ndarray:
        return unit(np.repeat(people, photos, axis=0) + self._unlike * self._draw(len(people) * photos))

    def _draw(self, count: int) -> np.ndarray:
        return self._random.normal(size=(count, WIDTH)).astype(np.float32) / np.sqrt(WIDTH)


class DrawnFaces:
    """A stand-in for the stage: reads faces off plain pictures whose red says who, green how many, blue how large."""

    def __init__(self, folder: Path, people: People) -> None:
        self._faces = people.meet(8)
        self._people = people
        self._model = folder / "faces.onnx"
        self._model.write_bytes(b"weights")
        self.is_open = False

    def face_model(self) -> Path:
        return self._model

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def process(self, frames: pa.Table) -> pa.Table:
        rows = []
        for row in range(len(frames)):
            who, number, side = frame_pixels(frames, row)[0, 0].tolist()
            faces = []
            for face in range(number):
                vector = self._people.photograph(self._faces[who : who + 1], 1)[0].astype(np.float16)
                box = [0, 0, side / (1 + 3 * face) if who else side, side]
                faces.append(
                    {"score": 0.9, "box": box, "landmarks": [], "vector": vector if side > 20 else None, "name": None}
                )
            rows.append(faces)
        columns = {"media_id": frames["media_id"], "faces_found": rows, "faces_error": [None] * len(rows)}
        return pa.table(columns, schema=arrow_schema("faces"))


def save_photo(folder: Path, who: int, number: int, side: int = 60) -> None:
    """Save a photo of `number` faces, the first of `who`; the others are smaller, but as large beside person 0."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = len(list(folder.iterdir()))
    # Of different sizes: the same bytes twice are one photo.
    Image.new("RGB", (8 + photo, 8 + who), (who, number, side)).save(folder / f"{photo}.png")
