"""Keywords that the pictures of posts show, among those of the post's channel; what no picture shows is refused."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit
from typing_extensions import TypedDict

from weibotag.core.arrays import first_of_each, keep_highest, list_parts, rank_in_runs, rows_of
from weibotag.core.errors import RequestError
from weibotag.core.files import MAP, replace_folder, write_parquet
from weibotag.core.own_files import (
    INDEX,
    Origin,
    as_csr,
    check_digests,
    list_digests,
    read_metadata,
    read_table,
    read_tensors,
    write_tensors,
)
from weibotag.core.schema import EVIDENCE, KEYWORD, arrow_schema, cast
from weibotag.core.text_matching import fold
from weibotag.curation.keywords.extract import read_pictured
from weibotag.extraction.requests import WordingsRequest
from weibotag.features.hashed_ngrams import check_features, number, read_counts
from weibotag.features.vocabulary import MOST_KEYWORDS
from weibotag.posts.rejects import Rejects
from weibotag.posts.writer import write_tables
from weibotag.scoring.closure import collect_highest
from weibotag.scoring.decision import Calibration
from weibotag.vision.faces import FACE_WORD

KEYWORDS_FILE, WEIGHTS_FILE = "keywords.parquet", "weights.safetensors"
LEARNT, TAGS = arrow_schema("picture_keywords"), arrow_schema("tags")
ABOUT = "map"
ORIGIN = Origin("a map of pictures to keywords", "weibotag keywords map train")
TENSORS = {
    "features": ("uint32|int64|int32", "features"),
    "prior": ("float32|float64", "keywords"),
    "slope": ("float32", "keywords"),
    "offset": ("float32", "keywords"),
    "data": ("float32|float64", "weights"),
    "indices": (INDEX, "weights"),
    "indptr": (INDEX, "features+1"),
}
ROUTE = "pictures"
# Posts that are read, and that are scored over all keywords, at once.
TABLE_ROWS, ROWS = 5_000, 1_000
# Each character of print is read six times: alone, in two pairs and in three threes.
PRINT_WEIGHT = 1 / 6
# Wordings repeat each other (codes of two sizes); halved, few sums lie beyond what can be calibrated.
DAMPING = 0.5
# Fainter raw scores are those of no keyword, nor are those of a post after its best.
FLOOR, MOST_SCORES = 0.1, 2 * MOST_KEYWORDS


@dataclass(frozen=True)
class Pictures:
    """What the pictures of some posts say: float32 csr_matrix of hashed features, 1, of print `PRINT_WEIGHT`.

    `wordings` has a row for each wording of a table, `posts` one for each post; `channels` are those of the posts.
    """

    wordings: csr_matrix
    posts: csr_matrix
    channels: np.ndarray


def read_pictures(table: pa.Table, places: np.ndarray, features: int) -> Pictures:
    """Return what the wordings of a posts table say; the text of a post is never looked at.

    `places` (2 ** `BITS`,) numbers the hashed features that count, of which there are `features`; -1 for others.
    """
    offsets, values = list_parts(table["wordings"].combine_chunks())
    each = pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), values)
    lines = dict.fromkeys(("text", "author", "channel"), pa.repeat("", len(values)))
    wordings = read_counts(pa.table({**lines, "wordings": each}), places, features)
    printed = pc.fill_null(pc.equal(values.field("kind"), "ocr"), False).to_numpy(zero_copy_only=False)
    rows = rows_of(wordings.indptr)
    wordings.data[printed[rows]] = PRINT_WEIGHT
    owners = rows_of(offsets)[rows]
    posts = collect_highest(owners, wordings.indices, wordings.data, (len(table), features))
    return Pictures(wordings, posts, np.array(table["channel"].to_pylist(), dtype=object))


def add_up(posts: csr_matrix, weights: csr_matrix, prior: np.ndarray) -> csr_matrix:
    """Return raw scores (posts x keywords, float32) of the keywords that the wordings speak for, not against: the best.

    `weights` (features x keywords) are logarithms of likelihood ratios, `prior` (keywords,) log odds.
    """
    blocks = [csr_matrix((0, weights.shape[1]), dtype=np.float32)]
    for start in range(0, posts.shape[0], ROWS):
        sums = csr_matrix(posts[start : start + ROWS] @ weights)
        rows = rows_of(sums.indptr)
        raw = expit(DAMPING * (sums.data + prior[sums.indices])).astype(np.float32)
        kept = (sums.data > 0) & (raw >= FLOOR)
        some = csr_matrix((raw[kept], (rows[kept], sums.indices[kept])), shape=sums.shape)
        blocks.append(keep_highest(some, MOST_SCORES))
    return csr_matrix(vstack(blocks, format="csr"))


def place_blocks(blocks: Iterable[tuple[csr_matrix, np.ndarray, np.ndarray]], shape: tuple[int, int]) -> csr_matrix:
    """Return a matrix of this shape from blocks of it, each with its rows and its columns; no two may overlap."""
    parts = [(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64))]
    for block, rows, columns in blocks:
        found = block.tocoo()
        parts.append((found.data, rows[found.row], columns[found.col]))
    data, all_rows, all_columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    return csr_matrix((data, (all_rows, all_columns)), shape=shape)


@dataclass(frozen=True)
class PictureMap:
    """Which wordings speak for which keywords of each channel, and from which score on a keyword is given.

    `keywords` is a table of schema "picture_keywords"; the columns of `weights` (features x keywords), `prior` (see
    `add_up`) and `calibration` are those of them that have a threshold, in their order. `features` are hashed, ascending.
    """

    keywords: pa.Table
    features: np.ndarray
    weights: csr_matrix
    prior: np.ndarray
    calibration: Calibration

    @cached_property
    def shown(self) -> pa.Table:
        """Return the keywords that have a threshold: pictures show them."""
        return self.keywords.filter(self.keywords["threshold"].is_valid()).combine_chunks()

    def find(self, table: pa.Table) -> pa.Table:
        """Return rows of schema "tags" for posts with wordings: keywords that their pictures show, best first.

        For each keyword `evidence` has, at the same place, the wording that spoke for it most; its kind is the source. A
        face that has a name says that name, with the face's own score.
        """
        pictures = read_pictures(table, number(self.features), len(self.features))
        scores = self.calibration.apply(self._score(pictures))
        posts = rows_of(scores.indptr)
        kept = scores.data >= self.shown["threshold"].to_numpy()[scores.indices]
        posts, words = posts[kept], scores.indices[kept]
        wordings = self._find_wordings(table, pictures, posts, words)
        names = self.shown["keyword"].combine_chunks().take(pa.array(words))
        return _list_keywords(table, posts, names, scores.data[kept], wordings)

    def _score(self, pictures: Pictures) -> csr_matrix:
        """Return raw scores, posts x keywords, of the keywords of each post's own channel."""
        channels = np.array(self.shown["channel"].to_pylist(), dtype=object)
        own = ((np.flatnonzero(pictures.channels == name), np.flatnonzero(channels == name)) for name in set(channels))
        blocks = (
            (add_up(pictures.posts[posts], self.weights[:, words], self.prior[words]), posts, words) for posts, words in own
        )
        return place_blocks(blocks, (len(pictures.channels), len(channels)))

    def _find_wordings(self, table: pa.Table, pictures: Pictures, posts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return for each pair of post and keyword the place of the wording that speaks for it most."""
        offsets, _ = list_parts(table["wordings"].combine_chunks())
        counts = np.diff(offsets)[posts]
        pair = np.repeat(np.arange(len(posts)), counts)
        places = np.arange(len(pair)) + np.repeat(offsets[posts] - np.cumsum(counts) + counts, counts)
        asked, rows = np.unique(places, return_inverse=True)
        sums = csr_matrix(pictures.wordings[asked] @ self.weights)
        weights = np.asarray(sums[rows, words[pair]]).ravel() if len(pair) else np.empty(0)
        order = np.lexsort((places, -weights, pair))
        return np.asarray(places[order[rank_in_runs(pair[order]) == 0]])

    def save(self, folder: Path) -> None:
        """Write the map as a folder of data files, whole or not at all; an older one at that place is replaced."""
        parts = {
            "features": self.features,
            "prior": self.prior,
            "slope": self.calibration.slope,
            "offset": self.calibration.offset,
            "data": self.weights.data,
            "indices": self.weights.indices,
            "indptr": self.weights.indptr,
        }
        with replace_folder(folder, MAP) as fresh:
            write_parquet(self.keywords, fresh / KEYWORDS_FILE)
            write_tensors(fresh / WEIGHTS_FILE, parts, (ABOUT, {"files": list_digests(fresh)}))


def load_map(folder: Path) -> PictureMap:
    """Read what `PictureMap.save` wrote; raises OwnFileError when the folder is none, or not whole."""
    path = folder / WEIGHTS_FILE
    about = read_metadata(path, ABOUT, MapAbout, ORIGIN)
    check_digests(folder, about["files"], [KEYWORDS_FILE], ORIGIN)
    keywords = read_table(folder / KEYWORDS_FILE, LEARNT, ORIGIN)
    shown = keywords.filter(keywords["threshold"].is_valid())
    unnamed = shown["keyword"].null_count + shown["channel"].null_count
    ORIGIN.need(folder / KEYWORDS_FILE, not unnamed, "found keywords without a name")
    parts = read_tensors(path, TENSORS, ORIGIN, {"keywords": len(shown)})
    check_features(parts["features"], path, ORIGIN)
    weights = as_csr(parts, (len(parts["features"]), len(shown)), path, ORIGIN)
    return PictureMap(keywords, parts["features"], weights, parts["prior"], Calibration(parts["slope"], parts["offset"]))


class MapAbout(TypedDict):
    """What the weights say of the file beside them: its digest by its name."""

    files: dict[str, str]


@dataclass(frozen=True)
class MappingSummary:
    """What `map_posts` wrote: posts, those with a keyword, keywords of all; rows that could not be used; the file."""

    posts: int
    posts_with: int
    keywords: int
    rejects: int
    out: str


def map_posts(request: WordingsRequest, folder: Path, out: str) -> MappingSummary:
    """Write the keywords that the pictures of posts show to `out` (schema "tags")."""
    found = load_map(folder)
    rejects = Rejects(None)
    lengths = [np.empty(0, np.int64)]

    def find() -> Iterator[pa.Table]:
        for table in need_pictures(request, rejects):
            answer = found.find(table)
            lengths.append(pc.list_value_length(answer["keywords"]).to_numpy())
            yield answer

    posts = write_tables(find(), out, TAGS)
    each = np.concatenate(lengths)
    return MappingSummary(posts, int((each > 0).sum()), int(each.sum()), rejects.count, out)


def need_pictures(request: WordingsRequest, rejects: Rejects) -> Iterator[pa.Table]:
    """Give posts tables with the column `wordings`; raises RequestError where nothing says what the pictures say."""
    for table in read_pictured(request, rejects, "reading posts", TABLE_ROWS):
        if "wordings" not in table.column_names:
            raise RequestError(
                f"{request.posts}: no column wordings, so nothing is known of the pictures; look at them with `weibotag "
                f"wordings {request.posts} -o W.parquet`, then give --wordings W.parquet; or give --words KIND=COLUMN"
            )
        yield table


def _list_keywords(table: pa.Table, posts: np.ndarray, words: pa.Array, found: np.ndarray, spoke: np.ndarray) -> pa.Table:
    """Return rows of schema "tags" from pairs of post and keyword, each with its score and wording, and from named faces."""
    offsets, values = list_parts(table["wordings"].combine_chunks())
    spelled, kinds = pc.fill_null(values.field("word"), ""), values.field("kind")
    named = pc.and_(pc.equal(kinds, "face"), pc.not_equal(spelled, FACE_WORD))
    faces = np.flatnonzero(pc.fill_null(named, False).to_numpy(zero_copy_only=False))
    posts = np.concatenate([posts, np.searchsorted(offsets, faces, side="right") - 1])
    words = pa.concat_arrays([words, spelled.take(pa.array(faces))])
    own = pc.fill_null(values.field("score").take(pa.array(faces)), 1.0).to_numpy(zero_copy_only=False)
    found, spoke = np.concatenate([found, own]), np.concatenate([spoke, faces])
    _, alike = np.unique([fold(word).strip() for word in words.to_pylist()], return_inverse=True)
    order = np.lexsort((spoke, alike, -found, posts))
    order = order[first_of_each(posts[order] * (len(alike) + 1) + alike[order])]
    order = order[rank_in_runs(posts[order]) < MOST_KEYWORDS]
    taken, spoken = pa.array(order), pa.array(spoke[order].astype(np.int64))
    ends = pa.array(np.searchsorted(posts[order], np.arange(len(table) + 1)), pa.int32())
    source = kinds.take(spoken)
    keyword = [words.take(taken), pa.array(found[order], pa.float32()), source]
    wording = (values.field(name).take(spoken) for name in ("word", "media_id", "box"))
    evidence = [pa.nulls(len(order), pa.string()), source, *wording]
    columns = {
        "post_id": table["post_id"],
        "tags": pa.array([[]] * len(table), TAGS.field("tags").type),
        "keywords": pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(keyword, fields=list(KEYWORD))),
        "route": pa.repeat(ROUTE, len(table)),
        "evidence": pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(evidence, fields=list(EVIDENCE))),
    }
    return cast(pa.table(columns), "tags")
