"""Semantic codes: vectors as words, by levels of clusters, each level of what the coarser ones left over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix
from typing_extensions import TypedDict

from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.core.own_files import Origin, TensorType, read_metadata, read_tensors, write_tensors
from weibotag.core.progress import describe_cost
from weibotag.core.schema import arrow_schema
from weibotag.features.visual_codes import learn_centres
from weibotag.posts.writer import write_tables

# Of each level; of more vectors those of the posts with the smallest hashes, so that the next time has nearly the same.
VECTORS_A_CODE = 100
ROWS = 4_096
ITERATIONS = 100
# Half way to where the means are: two thirds of the gain in fit of a whole step, at a third of the codes that change.
STEP = 0.5
# Bytes of memory of a number of a vector; iterations that k-means takes, mostly; what a core multiplies in a second.
VECTOR_BYTES, USUAL_ITERATIONS, PACE = 16, 30, 1e10
FORMAT = "weibotag semantic codes 1"
EMBED = "embed_vector"
ORIGIN = Origin("semantic codes", "make them with `codes fit`")


@dataclass(frozen=True)
class SemanticCodes:
    """Levels of clusters: of vectors, then of what is left of them when the centre of their cluster is taken off.

    `centres` has one (k, d) float32 array for each level; `numbers` (k,) int64 are what its clusters are called in words,
    and `given` how many numbers of each level have been given, so that one that went is not given again. Residual
    quantisation (Juang and Gray 1982); as ids for recommenders: Rajput et al. 2023, Singh et al. 2023.
    """

    name: str
    centres: tuple[np.ndarray, ...]
    numbers: tuple[np.ndarray, ...]
    given: tuple[int, ...]

    def assign(self, vectors: np.ndarray) -> np.ndarray:
        """Return the numbers (n, levels) int64 of the clusters of vectors (n, d), coarsest first."""
        return np.concatenate([self._assign(vectors[at : at + ROWS])[0] for at in range(0, len(vectors), ROWS) or [0]])

    def explained(self, vectors: np.ndarray) -> list[float]:
        """Return the share of the variance of vectors (n, d) that the levels down to each explain."""
        left = np.zeros(len(self.centres))
        for at in range(0, len(vectors), ROWS):
            left += self._assign(vectors[at : at + ROWS])[1]
        whole = float(((vectors - vectors.mean(axis=0, dtype=np.float64)) ** 2).sum())
        return [round(1 - float(error) / whole, 4) if whole else 1.0 for error in left]

    def _assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers (n, levels), and the sum of squares that each level leaves over."""
        residual = vectors.astype(np.float64)
        found, left = np.empty((len(vectors), len(self.centres)), np.int64), np.empty(len(self.centres))
        for level, (centres, numbers) in enumerate(zip(self.centres, self.numbers, strict=True)):
            nearest = find_nearest(residual, centres)
            residual -= centres[nearest]
            found[:, level], left[level] = numbers[nearest], (residual**2).sum()
        return found, left

    def words(self, numbers: Sequence[int]) -> list[str]:
        """Return the words of the numbers of one vector: each says its cluster and all coarser ones, s0_17, s0_17_203 …"""
        return ["_".join([self.name, *map(str, numbers[: level + 1])]) for level in range(len(numbers))]

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {f"centres_{level}": centres for level, centres in enumerate(self.centres)}
        tensors |= {f"numbers_{level}": numbers for level, numbers in enumerate(self.numbers)}
        write_tensors(path, tensors, (FORMAT, {"name": self.name, "given": self.given}))

    @classmethod
    def load(cls, path: Path) -> "SemanticCodes":
        """Read what `save` wrote; raises OwnFileError for anything else."""
        about = read_metadata(path, FORMAT, CodesAbout, ORIGIN)
        levels = range(len(about["given"]))
        types: dict[str, TensorType] = {}
        for level in levels:
            types |= {f"centres_{level}": ("float32", f"size {level}", "d"), f"numbers_{level}": ("int64", f"size {level}")}
        tensors = read_tensors(path, types, ORIGIN)
        centres, numbers = (tuple(tensors[f"{kind}_{level}"] for level in levels) for kind in ("centres", "numbers"))
        sound = len(levels) > 0 and all(
            len(own) > 0 and own.min() >= 0 and own.max() < given for own, given in zip(numbers, about["given"], strict=True)
        )
        ORIGIN.need(path, sound, "found clusters with numbers that were never given")
        return cls(about["name"], centres, numbers, tuple(about["given"]))


class CodesAbout(TypedDict):
    """What a file of codes says of them: see `SemanticCodes`."""

    name: str
    given: list[int]


def find_nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the place of the nearest of the centres (k, d) to each of the vectors (n, d), int64.

    In float64, so that the size of a batch and the number of threads change nothing.
    """
    wide = centres.astype(np.float64)
    return np.asarray(np.argmin((wide**2).sum(axis=1) - 2 * vectors.astype(np.float64) @ wide.T, axis=1))


def fit(vectors: np.ndarray, name: str, levels: int, size: int) -> SemanticCodes:
    """Learn so many levels of `size` clusters from vectors (n, d), by k-means on one thread with a fixed seed."""
    residual = vectors.astype(np.float32)
    found = []
    for _ in range(levels):
        found.append(learn_centres(residual, size, ITERATIONS).cluster_centers_.astype(np.float32))
        residual = residual - found[-1][find_nearest(residual, found[-1])]
    return SemanticCodes(name, tuple(found), tuple(np.arange(size) for _ in found), (size,) * levels)


def refit(vectors: np.ndarray, old: SemanticCodes) -> SemanticCodes:
    """Return codes whose centres have gone from the old ones `STEP` of the way to the means of these vectors (n, d).

    So a number keeps its meaning, and a vector nearly always its number: k-means anew, with its clusters matched to the old
    ones, keeps less than half of them. A cluster that no vector falls into begins anew at a vector that is far from all
    centres, with a number that was never given.
    """
    residual = vectors.astype(np.float32)
    centres, numbers, given = [], [], []
    for before, called, count in zip(old.centres, old.numbers, old.given, strict=True):
        nearest = find_nearest(residual, before)
        members = np.bincount(nearest, minlength=len(before))
        pairs = csr_matrix((np.ones(len(nearest)), (nearest, np.arange(len(nearest)))), shape=(len(before), len(nearest)))
        means = (pairs @ residual) / np.maximum(members, 1)[:, None]
        moved = (before + STEP * (means - before)).astype(np.float32)
        empty = np.flatnonzero(members == 0)
        distance = ((residual - before[nearest]) ** 2).sum(axis=1)
        moved[empty] = residual[np.argsort(-distance, kind="stable")[: len(empty)]]
        centres.append(moved)
        numbers.append(called.copy())
        numbers[-1][empty] = count + np.arange(len(empty))
        given.append(count + len(empty))
        residual = residual - moved[find_nearest(residual, moved)]
    return SemanticCodes(old.name, tuple(centres), tuple(numbers), tuple(given))


def share_kept(before: np.ndarray, after: np.ndarray) -> list[float]:
    """Return for each level the share of rows whose numbers (n, levels) are the same down to it."""
    return [round(float(share), 4) for share in np.logical_and.accumulate(before == after, axis=1).mean(axis=0)]


def read_vectors(path: Path, column: str | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
    """Give post ids and vectors (n, d) float32 of a Parquet file, batch by batch; rows without a vector are left out.

    The vectors are in `column`; without one in embed_vector, or in the only column of lists of floats. Raises RequestError
    where they can't be had, NothingAcceptedError for a file without rows.
    """
    width = 0
    try:
        with pq.ParquetFile(path.absolute()) as file:
            name = _find_column(path, file.schema_arrow, column)
            if not file.metadata.num_rows:
                raise NothingAcceptedError(path)
            for batch in file.iter_batches(ROWS, columns=["post_id", name]):
                some = batch.filter(batch[name].is_valid())
                if not len(some):
                    continue
                lengths = pc.list_value_length(some[name]).to_numpy()
                width = width or int(lengths[0])
                flat = pc.list_flatten(some[name]).to_numpy(zero_copy_only=False).astype(np.float32)
                ids = some["post_id"].cast(pa.string()).fill_null("").to_pylist()
                wrong = lengths != width
                wrong |= np.bincount(np.repeat(np.arange(len(some)), lengths)[~np.isfinite(flat)], minlength=len(some)) > 0
                if wrong.any() or not width:
                    raise RequestError(
                        f"{path}: the {name} of post {ids[int(np.argmax(wrong))]} has not {width or 'any'} numbers, as that "
                        "of the first has; expected vectors of one model"
                    )
                yield ids, flat.reshape(len(some), -1)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(
            f"{path}: no vectors that can be read ({reason}); expected Parquet, as of `weibotag embed`"
        ) from error


def _find_column(path: Path, names: pa.Schema, column: str | None) -> str:
    lists = [
        field.name
        for field in names
        if isinstance(field.type, pa.ListType | pa.FixedSizeListType) and pa.types.is_floating(field.type.value_type)
    ]
    known = ", ".join(lists) or "none"
    if "post_id" not in names.names:
        raise RequestError(f"{path} has no column post_id; found {', '.join(names.names)}")
    if column is not None and column not in lists:
        raise RequestError(f"{path}: no vectors in column {column}; columns of lists of floats: {known}")
    if column is None and EMBED not in lists and len(lists) != 1:
        raise RequestError(f"{path}: which column has the vectors? --column names one of: {known}")
    return column or (EMBED if EMBED in lists else lists[0])


def sample_vectors(path: Path, column: str | None, most: int) -> np.ndarray:
    """Return vectors (n, d) float32 of a file, so many at most: nearly the same ones when the file has grown."""
    ranks, vectors = np.empty(0, np.uint64), np.empty((0, 0), np.float32)
    for ids, some in read_vectors(path, column):
        hashes = np.frombuffer(b"".join(blake2b(post_id.encode(), digest_size=8).digest() for post_id in ids), np.uint64)
        low = hashes < ranks.max() if len(ranks) == most else np.ones(len(ids), bool)
        ranks = np.concatenate([ranks, hashes[low]])
        vectors = np.concatenate([vectors.reshape(-1, some.shape[1]), some[low]])
        if len(ranks) > most:
            chosen = np.sort(np.argsort(ranks, kind="stable")[:most])
            ranks, vectors = ranks[chosen], vectors[chosen]
    return vectors


def cost_of_fitting(path: Path, column: str | None, size: int, levels: int) -> str:
    """Return in one line what learning codes from a file takes."""
    first = next(read_vectors(path, column), None)
    posts, width = (pq.read_metadata(path.absolute()).num_rows, first[1].shape[1]) if first is not None else (0, 0)
    used = min(posts, VECTORS_A_CODE * size)
    seconds = 2 * used * width * levels * size * USUAL_ITERATIONS / PACE
    return describe_cost(
        f"{path}: {used:,} vectors of {width:,} numbers", used, seconds, 0.4e9 + used * width * VECTOR_BYTES
    )


@dataclass(frozen=True)
class FittingSummary:
    """How many vectors codes were learnt from, and the share of their variance that the levels down to each explain.

    Where old codes were aligned to: the shares of vectors that keep their numbers, and what the old ones explain.
    """

    vectors: int
    explained: list[float]
    out: str
    kept: list[float] | None = None
    explained_before: list[float] | None = None


def fit_codes(
    path: Path, out: Path, *, name: str, levels: int, size: int, column: str | None = None, align_to: Path | None = None
) -> FittingSummary:
    """Learn codes from the vectors of a file, and save them.

    With `align_to`, older codes, name, levels and size are theirs. Raises RequestError for fewer distinct vectors than
    clusters, and for vectors of another width.
    """
    old = None if align_to is None else SemanticCodes.load(align_to)
    size = size if old is None else len(old.centres[0])
    vectors = sample_vectors(path, column, VECTORS_A_CODE * size)
    distinct = len(np.unique(vectors, axis=0)) if len(vectors) else 0
    if distinct < size:
        raise RequestError(f"{path}: {distinct:,} distinct vectors; {size:,} codes a level need as many: lower --size")
    if old is None:
        codes = fit(vectors, name, levels, size)
    else:
        _check_width(path, old, vectors)
        codes = refit(vectors, old)
    codes.save(out)
    summary = FittingSummary(len(vectors), codes.explained(vectors), str(out))
    if old is None:
        return summary
    kept = share_kept(old.assign(vectors), codes.assign(vectors))
    return replace(summary, kept=kept, explained_before=old.explained(vectors))


@dataclass(frozen=True)
class ApplyingSummary:
    """How many posts were given the codes of how many vectors, and in which file they are."""

    posts: int
    vectors: int
    out: str


def apply_codes(path: Path, codes: SemanticCodes, out: Path, column: str | None = None) -> ApplyingSummary:
    """Write the codes of the posts of a file of vectors, in order, a row each.

    A post with several vectors has the codes of all, each once. Raises RequestError for vectors of another width.
    """
    found: dict[str, dict[str, None]] = {}
    total = 0
    for ids, vectors in read_vectors(path, column):
        _check_width(path, codes, vectors)
        total += len(ids)
        for post_id, numbers in zip(ids, codes.assign(vectors).tolist(), strict=True):
            found.setdefault(post_id, {}).update(dict.fromkeys(codes.words(numbers)))
    everyone = pq.read_table(path.absolute(), columns=["post_id"])["post_id"].cast(pa.string()).fill_null("")
    posts = pc.unique(everyone).to_pylist()
    table = pa.table([posts, [list(found.get(post_id, ())) for post_id in posts]], schema=arrow_schema("codes"))
    write_tables([table], out, table.schema)
    return ApplyingSummary(len(posts), total, str(out))


def _check_width(path: Path, codes: SemanticCodes, vectors: np.ndarray) -> None:
    width = codes.centres[0].shape[1]
    if vectors.shape[1] != width:
        raise RequestError(f"{path}: vectors of {vectors.shape[1]:,} numbers; the codes {codes.name} are of {width:,}")
