"""Near-duplicates: reposts of a picture that were resized or saved anew, found by a perceptual hash and then compared.

The hash (64 bits, signs of a picture's low frequencies; Zauner, 2010) finds candidates; it hardly sees a caption. So
thumbnails are compared too, at their most different place: another caption differs there by more than a new JPEG does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HASH_SIDE = 32
LOW = 8
THUMBNAIL = 64
# Of 64 bits. Reposts differ by 4 at most, other pictures by 18 and more.
MOST_BITS = 6
# Root mean square difference of grey (0 to 255) in the most different 5 x 5 pixels of two thumbnails. A new JPEG at another
# size: median 5, 95 % below 14; another caption of a thirtieth of the height: 95 % above 16, all above 11.
MOST_DIFFERENT = 10.0
WINDOW = 5
# Width over height: resizing rounds both.
RATIO = 0.03
CANDIDATES = 8


@dataclass(frozen=True)
class Print:
    """What is kept of a picture: its hash, its width over height, its grey thumbnail (`THUMBNAIL` squared bytes)."""

    hash: int
    ratio: float
    thumbnail: bytes


def take_print(rgb: np.ndarray) -> Print:
    """Return the print of a picture, uint8 (height, width, 3)."""
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies = cv2.dct(small)[:LOW, :LOW].ravel()
    # The first is the mean, of which the picture's brightness decides.
    bits = frequencies > np.median(frequencies[1:])
    bits[0] = False
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Print(int.from_bytes(np.packbits(bits).tobytes()), rgb.shape[1] / rgb.shape[0], thumbnail.tobytes())


def look_same(one: Print, other: Print) -> bool:
    """Tell whether two prints are of one picture, saved twice."""
    import cv2

    if abs(one.ratio / other.ratio - 1) > RATIO:
        return False
    first, second = (np.frombuffer(each.thumbnail, np.uint8).astype(np.float32) for each in (one, other))
    apart = (first - second - (first.mean() - second.mean())) ** 2
    worst = cv2.blur(apart.reshape(THUMBNAIL, THUMBNAIL), (WINDOW, WINDOW)).max()
    return bool(worst <= MOST_DIFFERENT**2)


class Prints:
    """Pictures by their hashes: ids and hashes of all, searched one after the other (a million in 2 ms)."""

    def __init__(self, ids: Sequence[str], hashes: Sequence[int]) -> None:
        self._ids = list(ids)
        self._hashes = np.zeros(max(1024, 2 * len(ids)), np.uint64)
        self._hashes[: len(ids)] = np.fromiter(hashes, np.uint64, len(ids))

    def add(self, file_id: str, hash_: int) -> None:
        """Add a picture."""
        if len(self._ids) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
        self._hashes[len(self._ids)] = hash_
        self._ids.append(file_id)

    def find(self, hash_: int) -> list[str]:
        """Return the ids of the pictures with the nearest hashes, `CANDIDATES` at most, nearest first."""
        apart = np.bitwise_count(self._hashes[: len(self._ids)] ^ np.uint64(hash_))
        near = np.flatnonzero(apart <= MOST_BITS)
        order = np.argsort(apart[near], kind="stable")[:CANDIDATES]
        return [self._ids[place] for place in near[order].tolist()]
