"""What a gallery of known faces is worth: how well its own faces are told apart, and which of them look wrong."""

from typing import NotRequired, TypedDict

import numpy as np

from weibotag.vision.face_gallery import MARGIN, Gallery, find_nearest, list_strangers, unit


class NameWorth(TypedDict):
    """A name: how many faces it has, and how many of them would be recognised (null where there is one)."""

    name: str
    faces: int
    recognised: int | None


class Alike(TypedDict):
    """Two names whose faces are alike, and their highest cosine."""

    names: list[str]
    score: float


class OddFace(TypedDict):
    """A face (its number, from 0, and the photo where that is known) that is nearer to another name than to its own."""

    face: int
    name: str
    looks_like: str
    score: float
    photo: NotRequired[str]


class Worth(TypedDict):
    """What a gallery is worth, each of its faces held against the names as if it were a new one.

    `own`, `strangers`: quantiles of cosines with the own name and with all others; `recognised`: share of faces that would
    get their name; `misnamed`: share that would get another one if their own were not there; null where nothing says.
    """

    threshold: float
    faces: int
    names: list[NameWorth]
    own: dict[str, float] | None
    strangers: dict[str, float] | None
    recognised: float | None
    misnamed: float | None
    alike: list[Alike]
    odd: list[OddFace]


def assess(gallery: Gallery) -> Worth:
    """Return what a gallery is worth, ready for JSON."""
    names, owners = gallery.names, gallery.owners
    faces = np.bincount(owners, minlength=len(names))
    # A face does not count for its own name here, as one of a new picture would not.
    known = faces[owners] > 1
    own = np.einsum("ij,ij->i", gallery.vectors, unit(gallery.sums[owners] - gallery.vectors))
    best, nearest, second = find_nearest(gallery.vectors, gallery.means, owners)
    right = known & gallery.is_sure(own, nearest)
    # As alike as two pictures of one person, or nearly enough for a wrong name.
    near = nearest >= min(gallery.threshold, float(np.median(own[known])) if known.any() else 1.0) - MARGIN
    # Two names of one person are alike; a face is odd where it is unlike its own name.
    odd = near & known & (own < np.minimum(nearest, gallery.threshold))
    alike: dict[tuple[int, ...], float] = {}
    for row in np.flatnonzero(near & ~odd).tolist():
        pair = tuple(sorted((int(owners[row]), int(best[row]))))
        alike[pair] = max(alike.get(pair, -1.0), float(nearest[row]))
    hits = np.bincount(owners[right], minlength=len(names)).tolist()
    return {
        "threshold": round(gallery.threshold, 4),
        "faces": len(owners),
        "names": [
            {"name": name, "faces": count, "recognised": hit if count > 1 else None}
            for name, count, hit in zip(names, faces.tolist(), hits, strict=True)
        ],
        "own": quantiles(own[known]),
        "strangers": quantiles(list_strangers(gallery)),
        "recognised": round(float(right[known].mean()), 4) if known.any() else None,
        "misnamed": round(float(gallery.is_sure(nearest, second).mean()), 4) if len(names) > 1 else None,
        "alike": [
            {"names": [names[one] for one in pair], "score": round(score, 4)} for pair, score in sorted(alike.items())
        ],
        "odd": [
            {"face": row, "name": names[owners[row]], "looks_like": names[best[row]], "score": round(float(nearest[row]), 4)}
            for row in np.flatnonzero(odd).tolist()
        ],
    }


def quantiles(scores: np.ndarray) -> dict[str, float] | None:
    """Return the 5th, 50th and 95th percentile and the highest of scores; None where there are none."""
    if not len(scores):
        return None
    values = np.quantile(scores, (0.05, 0.5, 0.95, 1)).tolist()
    return {name: round(value, 4) for name, value in zip(("q05", "q50", "q95", "highest"), values, strict=True)}
