"""Names for faces: galleries of known faces, the threshold that keeps strangers nameless, and who a face is."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property, lru_cache
from hashlib import sha256
from math import tanh
from pathlib import Path
from statistics import NormalDist
from unicodedata import normalize

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.core.files import open_to_append
from weibotag.core.own_files import Origin, read_metadata, read_tensors, write_tensors
from weibotag.core.progress import bar
from weibotag.core.schema import FACE
from weibotag.vision.faces import Faces
from weibotag.vision.media.pictures import MediaLimits, frames_table, hash_file, read_file
from weibotag.vision.stage import hash_weights

FORMAT = 1
ABOUT = "gallery"
ORIGIN = Origin("a gallery", "make one with weibotag faces gallery build")
TENSORS = {"vectors": ("float16", "faces", "d"), "owners": ("int32", "faces")}
# The share of strangers' faces that may get a name, of a gallery of any size.
FALSE_NAMES = 0.001
# How much nearer than the second name the first must be.
MARGIN = 0.05
# Cosines of strangers with a name where no gallery says more: those of people before one camera in one light.
STRANGERS_MIDDLE, STRANGERS_SPREAD = 0.2, 0.15
# A gallery whose strangers are more alike than this is too small to say so.
LEAST_SPREAD = 0.05
# As many pairs of names must speak against that before they count as much.
STRANGERS_PAIRS = 20
UPPER = (0.95, 0.99)
# A second face of half the area leaves it open whose photo it is.
SECOND_FACE = 0.5
LIMITS = MediaLimits(max_frames=1)
# Faces whose cosines with all names are in memory at once, and the most cosines that the threshold is chosen by.
ROWS = 1_000
MOST_STRANGERS = 20_000_000


@dataclass(frozen=True)
class Gallery:
    """Faces with names: `vectors` (faces x dimensions, float32, unit length), `owners` (number of the name of each, int64).

    A face gets a name where its cosine with the mean of that name's faces reaches `threshold`. `model` is the file that
    made the vectors, `digest` its sha256.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    owners: np.ndarray
    threshold: float
    model: str
    digest: str

    @cached_property
    def sums(self) -> np.ndarray:
        """Return the sum of the faces of each name (names x dimensions)."""
        sums = np.zeros((len(self.names), self.vectors.shape[1]), np.float32)
        np.add.at(sums, self.owners, self.vectors)
        return sums

    @cached_property
    def means(self) -> np.ndarray:
        """Return the mean face of each name (names x dimensions, unit length)."""
        return unit(self.sums)

    def recognise(self, vectors: np.ndarray) -> np.ndarray:
        """Return the number of the name of each of `vectors` (faces x dimensions, unit length), int64; -1: nobody's."""
        best, first, second = find_nearest(vectors, self.means)
        return np.where(self.is_sure(first, second), best, -1)

    def is_sure(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return whether cosines with a name reach the threshold, and lie `MARGIN` above those with the second name."""
        return np.asarray((first >= self.threshold) & (first - second >= MARGIN))

    def check_model(self, path: Path | None) -> None:
        """Raise RequestError unless the file (of the faces stage) is the model that made the gallery's vectors."""
        if path is not None and hash_weights(path) == self.digest:
            return
        there = "has none" if path is None else f"has {path.name} ({hash_weights(path)[:12]})"
        raise RequestError(
            f"the gallery's faces were measured by {self.model} ({self.digest[:12]}), the faces stage {there}: "
            "set vectors of [faces] to that file, or build the gallery again"
        )

    def save(self, path: Path) -> None:
        """Write the gallery to one file of safetensors, whole or not at all."""
        about = {name: getattr(self, name) for name in ("names", "threshold", "model", "digest")} | {"format": FORMAT}
        tensors: dict[str, np.ndarray] = {"vectors": self.vectors.astype(np.float16), "owners": self.owners.astype(np.int32)}
        write_tensors(path, tensors, (ABOUT, about))


class GalleryAbout(TypedDict):
    """What a gallery's file says of its faces: see `Gallery`."""

    format: int
    names: list[str]
    threshold: float
    model: str
    digest: str


def read_gallery(path: Path) -> Gallery:
    """Read a gallery; raises OwnFileError when the file is absent, damaged or none of this format."""
    about = read_metadata(path, ABOUT, GalleryAbout, ORIGIN)
    ORIGIN.need(path, about["format"] == FORMAT, f"found a gallery of format {about['format']}, not {FORMAT}")
    tensors, names = read_tensors(path, TENSORS, ORIGIN), tuple(about["names"])
    owners = tensors["owners"].astype(np.int64)
    ORIGIN.need(path, len(set(names)) == len(names) and -1 <= about["threshold"] <= 1, "found a name twice, or no threshold")
    ORIGIN.need(path, ((owners >= 0) & (owners < len(names))).all(), "found faces of nobody")
    return Gallery(names, unit(tensors["vectors"]), owners, about["threshold"], about["model"], about["digest"])


def open_gallery(path: Path) -> Gallery:
    """Return the gallery of a file, which is read again only when it changed; raises what `read_gallery` raises."""
    return _read_state(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=1)
def _read_state(path: Path, mtime_ns: int) -> Gallery:
    return read_gallery(path)


def name_faces(found: pa.Table, gallery: Gallery) -> pa.Table:
    """Return a table of schema "faces" with the names that the gallery has for its faces; all others are null."""
    column = found["faces_found"].combine_chunks()
    offsets, faces = list_parts(column)
    vectors = faces.field("vector")
    numbers = np.full(len(faces), -1)
    has_vector = vectors.is_valid().to_numpy(zero_copy_only=False)
    if has_vector.any():
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        numbers[has_vector] = gallery.recognise(unit(flat.reshape(has_vector.sum(), -1)))
    names = pa.array(gallery.names, pa.string()).take(pa.array(numbers, mask=numbers < 0))
    fields = [names if field.name == "name" else faces.field(field.name) for field in FACE]
    named = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(fields, fields=list(FACE)), mask=column.is_null()
    )
    return found.set_column(found.schema.get_field_index("faces_found"), found.schema.field("faces_found"), named)


def choose_threshold(strangers: np.ndarray, names: int) -> float:
    """Return the cosine from which on a face gets a name, so that at most `FALSE_NAMES` of strangers' faces get one.

    `strangers`: cosines of the gallery's faces with all names but their own. Fisher's transform (atanh) of cosines is nearly
    normal; its middle is the median, its spread the wider of what the percentiles `UPPER` say, which one lookalike among
    many does not move; each name may take its part of what all may (Bonferroni). Few names say little: what is assumed of
    strangers counts as much as `STRANGERS_PAIRS` pairs of names, but never makes the threshold lower than theirs.
    """
    # By half: tails are heavier than normal.
    reach = NormalDist().inv_cdf(1 - FALSE_NAMES / 2 / max(names, 1))
    if not len(strangers):
        return tanh(STRANGERS_MIDDLE + reach * STRANGERS_SPREAD)
    middle, *upper = np.arctanh(np.clip(np.quantile(strangers, (0.5, *UPPER)), -0.999, 0.999)).tolist()
    spreads = ((value - middle) / NormalDist().inv_cdf(share) for value, share in zip(upper, UPPER, strict=True))
    spread = max(LEAST_SPREAD, *spreads)
    pairs = names * (names - 1) / 2
    share = pairs / (pairs + STRANGERS_PAIRS)
    mixed_middle = share * middle + (1 - share) * STRANGERS_MIDDLE
    mixed_spread = (share * spread**2 + (1 - share) * STRANGERS_SPREAD**2) ** 0.5
    return tanh(max(middle + reach * spread, mixed_middle + reach * mixed_spread))


def find_nearest(
    vectors: np.ndarray, means: np.ndarray, owners: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nearest name of each face (but its own, of `owners`) or -1, the cosine with it, and with the second."""
    best = np.full(len(vectors), -1)
    first, second = np.full((2, len(vectors)), -1, np.float32)
    for start in range(0, len(vectors) if len(means) else 0, ROWS):
        some = slice(start, start + ROWS)
        scores = vectors[some] @ means.T
        rows = np.arange(len(scores))
        if owners is not None:
            scores[rows, owners[some]] = -1
        best[some] = scores.argmax(axis=1)
        first[some] = scores[rows, best[some]]
        scores[rows, best[some]] = -1
        second[some] = scores.max(axis=1)
    return best, first, second


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors at unit length, float32; those of no length stay as they are."""
    vectors = vectors.astype(np.float32)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def list_strangers(gallery: Gallery) -> np.ndarray:
    """Return the cosines of a gallery's faces, evenly chosen where they are many, with all names but their own."""
    some = slice(None, None, 1 + len(gallery.owners) * len(gallery.names) // MOST_STRANGERS)
    scores = gallery.vectors[some] @ gallery.means.T
    return np.asarray(scores[np.arange(len(gallery.names)) != gallery.owners[some, None]])


@dataclass(frozen=True)
class Photo:
    """A file of a gallery's folder: whose it is, the sha256 of its bytes, why it can't be used or the vector of its face."""

    path: Path
    name: str
    digest: str | None
    reason: str | None
    vector: list[float] | None = None


def build_gallery(
    folder: Path, stage: Faces, forgotten: Collection[str] = (), quiet: bool = False
) -> tuple[Gallery, list[Photo]]:
    """Return the gallery of a folder that holds a folder of photos for each name, and all its photos.

    The photos without a reason are, in their order, the faces of the gallery. `forgotten`: names, as `hash_name` gives
    them, that were removed and stay so. Raises RequestError when the stage makes no vectors, or no photo can be used.
    """
    model = stage.face_model()
    if model is None:
        raise RequestError(
            "a gallery needs YuNet and a face model: weibotag models pull face_detection_yunet_2026may.onnx "
            "face_recognition_sface_2021dec.onnx, or set vectors of [faces]"
        )
    photos = list_photos(folder, forgotten)
    stage.open()
    try:
        with bar(len(photos), "looking at photos", quiet) as progress:
            for at, photo in enumerate(photos):
                found = photo.reason or find_face(photo, stage)
                photos[at] = replace(photo, reason=found) if isinstance(found, str) else replace(photo, vector=found)
                progress.advance()
    finally:
        stage.close()
    used = [photo for photo in photos if photo.reason is None]
    if not used:
        first = next((f"{photo.path}: {photo.reason}" for photo in photos), "it is empty")
        raise RequestError(f"{folder}: no face to use, expected a folder of photos for each name; {first}")
    vectors = unit(np.array([photo.vector for photo in used]))
    return make_gallery([photo.name for photo in used], vectors, model.name, hash_weights(model)), photos


def make_gallery(names: Sequence[str], vectors: np.ndarray, model: str, digest: str) -> Gallery:
    """Return a gallery of faces with a name each, which a model of that sha256 measured."""
    known, owners = np.unique(np.array(names, dtype=object), return_inverse=True)
    gallery = Gallery(tuple(known), vectors, owners, 1.0, model, digest)
    return replace(gallery, threshold=choose_threshold(list_strangers(gallery), len(known)))


def list_photos(folder: Path, forgotten: Collection[str]) -> list[Photo]:
    """Return the files of a folder by name and path; hidden ones are passed over.

    Bytes that stand under two names, or twice under one, are given a reason.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder; expected one that holds a folder of photos for each name")
    photos = []
    for path in folder.rglob("*"):
        first, *others = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") for part in (first, *others)):
            continue
        name = normalize("NFC", first).strip()
        if not others:
            photos.append(Photo(path, "", None, "lies beside the folders, not in one that says its name"))
        elif hash_name(name) in forgotten:
            photos.append(Photo(path, name, None, "its name was removed from this gallery, see the log beside it"))
        else:
            photos.append(Photo(path, name, *hash_file(path, LIMITS)))
    photos.sort(key=lambda photo: (photo.name, photo.path))
    twins: dict[str | None, list[Photo]] = defaultdict(list)
    for photo in photos:
        twins[photo.digest].append(photo)
    for at, photo in enumerate(photos):
        alike = twins[photo.digest]
        names = sorted({twin.name for twin in alike})
        if photo.reason is None and len(names) > 1:
            photos[at] = replace(photo, reason=f"the same file stands under {' and '.join(names)}")
        elif photo.reason is None and photo is not alike[0]:
            photos[at] = replace(photo, reason=f"the same file as {alike[0].path.name}")
    return photos


def find_face(photo: Photo, stage: Faces) -> list[float] | str:
    """Return the vector of the one large face of a photo, or why there is none."""
    file = read_file(photo.path, str(photo.digest), LIMITS)
    if file is None:
        return "it changed just now"
    if not file.frames:
        return str(file.rows[0]["media_error"])
    (row,) = stage.process(frames_table(file.frames)).to_pylist()
    if row["faces_error"] is not None:
        return str(row["faces_error"])
    faces = sorted(row["faces_found"], key=lambda face: -face["box"][2] * face["box"][3])
    if not faces:
        return "no face found"
    areas = [face["box"][2] * face["box"][3] for face in faces]
    if len(faces) > 1 and areas[1] >= SECOND_FACE * areas[0]:
        return "two faces of about the same size"
    vector: list[float] | None = faces[0]["vector"]
    return vector or f"its face is too small ({faces[0]['box'][2]:.0f} pixels wide)"


def remove_name(path: Path, name: str) -> int:
    """Take a name and its faces out of a gallery's file; return how many faces.

    The threshold is chosen anew. The log beside the file says when, how many, and the sha256 of the name: enough to show
    that somebody was removed and to keep the name out of the next gallery built there, without naming anybody. Raises
    RequestError when the gallery has no such name.
    """
    gallery = read_gallery(path)
    name = normalize("NFC", name).strip()
    if name not in gallery.names:
        near = get_close_matches(name, gallery.names, n=1)
        raise RequestError(f"{path}: no name {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    kept = gallery.owners != gallery.names.index(name)
    names = [gallery.names[owner] for owner in gallery.owners[kept]]
    removed = int((~kept).sum())
    # First the log: a removal that is not written down would come undone.
    with open_to_append(log_of(path)) as log:
        entry = f"{datetime.now(UTC).isoformat(timespec='seconds')}\tremoved\t{hash_name(name)}\t{removed} faces\n"
        log.write(entry.encode())
    make_gallery(names, gallery.vectors[kept], gallery.model, gallery.digest).save(path)
    return removed


def list_removed(path: Path) -> frozenset[str]:
    """Return the names, as `hash_name` gives them, that the log beside a gallery's file says were removed from it."""
    log = log_of(path)
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return frozenset(line.split("\t")[2] for line in lines if line.count("\t") >= 2)


def log_of(path: Path) -> Path:
    """Return the log of what was removed from a gallery."""
    return path.with_name(f"{path.name}.log")


def hash_name(name: str) -> str:
    """Return the sha256 of a name, hex."""
    return sha256(name.encode()).hexdigest()
