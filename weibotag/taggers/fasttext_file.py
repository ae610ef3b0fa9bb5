"""fastText's binary files, walked through before its library opens one: it trusts every number in them.

Format: github.com/facebookresearch/fastText, `FastText::saveModel`, version 12: magic and version, arguments, dictionary,
then whether it is quantised, the matrix of words and n-grams, whether that is, and the matrix of labels; little-endian.
"""

import re
import struct
from pathlib import Path

import numpy as np

from weibotag.core.own_files import MOST_TENSORS, Origin, check_file

ORIGIN = Origin("a fastText model for the tags of the taxonomy beside it", "train again")
HEAD = struct.Struct("<2i12id")
MAGIC, VERSION = 793_712_314, 12
SUPERVISED, ONE_VS_ALL = 3, 4
# Words, labels and entries are int32, tokens and the entries of a pruned dictionary int64.
COUNTS = struct.Struct("<3i2q")
# A word, how often it stood there, and whether it is a label.
ENTRY = re.compile(rb"([^\0]*)\0(.{8})([\0\1])", re.DOTALL)
MATRIX = struct.Struct("<2q")
# What training asks for is far below.
MOST_NGRAMS, MOST_DIMENSIONS = 10, 4_096
LABEL = b"__label__"


def check_fasttext(path: Path, tags: int) -> None:
    """Raise OwnFileError unless a file is a whole fastText model of `weibotag train` for at most so many tags."""
    check_file(path, ORIGIN, MOST_TENSORS)
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    ORIGIN.need(path, len(data) >= HEAD.size + COUNTS.size, f"found {len(data):,} bytes")
    magic, version, *arguments, _ = HEAD.unpack(data[: HEAD.size].tobytes())
    dimensions, _, _, _, _, ngrams, loss, model, buckets, shortest, longest, _ = arguments
    kind = magic, version, loss, model, shortest, longest
    fits = kind == (MAGIC, VERSION, ONE_VS_ALL, SUPERVISED, 0, 0) and buckets >= 0
    fits = fits and 0 < ngrams <= MOST_NGRAMS and 0 < dimensions <= MOST_DIMENSIONS and (buckets > 0 or ngrams == 1)
    ORIGIN.need(path, fits, "found arguments that training never gives")
    size, words, labels, tokens, pruned = COUNTS.unpack(data[HEAD.size : HEAD.size + COUNTS.size].tobytes())
    # Both matrices have all their numbers: what the dictionary may take is what is left.
    room = len(data) - HEAD.size - COUNTS.size - 2 * (1 + MATRIX.size)
    room -= 4 * dimensions * (max(0, words) + buckets + max(0, labels))
    fits = words >= 0 and 0 < labels <= tags and size == words + labels and tokens >= 0 and pruned == -1
    ORIGIN.need(path, fits and room >= 10 * size, "found sizes that do not fit the file")
    start = HEAD.size + COUNTS.size
    end = start + _walk(path, data[start : start + room].tobytes(), words, labels, tags)
    for rows in (words + buckets, labels):
        quantised, shape = data[end], MATRIX.unpack(data[end + 1 : end + 1 + MATRIX.size].tobytes())
        ORIGIN.need(path, quantised == 0 and shape == (rows, dimensions), f"found a matrix of {shape}")
        end += 1 + MATRIX.size
        numbers = np.frombuffer(data, "<f4", rows * dimensions, end)
        ORIGIN.need(path, not len(numbers) or np.isfinite([numbers.min(), numbers.max()]).all(), "found infinite numbers")
        end += numbers.nbytes
    ORIGIN.need(path, end == len(data), f"found {len(data) - end:,} bytes too many")


def _walk(path: Path, entries: bytes, words: int, labels: int, tags: int) -> int:
    """Return how many bytes the dictionary takes: words, then the labels of different tags."""
    end, seen, numbers = 0, set(), set()
    for place in range(words + labels):
        found = ENTRY.match(entries, end)
        if found is None:
            raise ORIGIN.fault(path, f"found a dictionary that ends after {place:,} entries")
        word, is_label = found[1], found[3] == b"\1"
        ORIGIN.need(path, is_label == (place >= words) and word not in seen, "found entries out of order or twice")
        seen.add(word)
        if is_label:
            number = word.removeprefix(LABEL)
            known = word.startswith(LABEL) and re.fullmatch(rb"0|[1-9][0-9]{0,8}", number) and int(number) < tags
            ORIGIN.need(path, bool(known), "found the label of another taxonomy")
            numbers.add(number)
        end = found.end()
    ORIGIN.need(path, end == len(entries), "found a dictionary that is shorter than its place")
    return end
