"""Which stages have looked at which files and posts."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Coverage:
    """What is known of files, in the order of `file_ids`: `bits` of the stages that have seen all their frames (int64,
    the first stage is the lowest).

    `decoded` (bool): the store has their media rows; `usable` (bool): one of their frames is a picture, or may be.
    """

    file_ids: pa.Array
    bits: np.ndarray
    decoded: np.ndarray
    usable: np.ndarray


def mark_files(file_ids: pa.Array, media: pa.Table, missing: Iterable[pa.Array]) -> Coverage:
    """Return what is known of distinct files from their media rows, and the media_ids that each stage has not seen."""
    place = pc.index_in(media["file_id"], file_ids).to_numpy(zero_copy_only=False)
    good = pc.is_null(media["media_error"]).to_numpy(zero_copy_only=False)
    decoded, shown = np.zeros(len(file_ids), bool), np.zeros(len(file_ids), bool)
    decoded[place], shown[place[good]] = True, True
    bits = np.zeros(len(file_ids), np.int64)
    for number, ids in enumerate(missing):
        seen = decoded.copy()
        lacks = pc.is_in(media["media_id"], ids).to_numpy(zero_copy_only=False)
        seen[place[lacks & good]] = False
        bits |= seen.astype(np.int64) << number
    return Coverage(file_ids, bits, decoded, shown | ~decoded)


def mark_posts(post_ids: pa.Array, links: pa.Table, coverage: Coverage, everything: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, per post, the stages that have looked at all its pictures (int64), and whether it has any that can be used.

    Posts without one have the bits 0.
    """
    files = pc.index_in(links["file_id"], coverage.file_ids).fill_null(-1).to_numpy(zero_copy_only=False)
    posts = pc.index_in(links["post_id"], post_ids).to_numpy(zero_copy_only=False)
    can = files >= 0
    can[can] = coverage.usable[files[can]]
    posts, files = posts[can], files[can]
    seen = np.zeros(len(post_ids), bool)
    seen[posts] = True
    bits = np.where(seen, everything, 0)
    np.bitwise_and.at(bits, posts, coverage.bits[files])
    return bits, seen
