"""What pictures say, mapped onto the keywords of the post's channel; keywords that pictures do not show are refused."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit

from weibotag.core.arrays import first_of_each, list_parts, rank_in_runs
from weibotag.core.errors import ModelError, RequestError
from weibotag.core.files import replace_folder, write_json, write_parquet
from weibotag.core.schema import EVIDENCE, KEYWORD, arrow_schema
from weibotag.core.text_matching import fold
from weibotag.curation.keywords.lines import join_wordings
from weibotag.features.hashed_ngrams import BITS, hash_features
from weibotag.features.keywords import MOST_KEYWORDS
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource, refuse_outputs
from weibotag.posts.supplied_words import add_given
from weibotag.posts.writer import write_tables
from weibotag.scoring.calibration import Calibration
from weibotag.vision.faces import FACE_WORD

KEYWORDS_FILE, WEIGHTS_FILE, ABOUT_FILE = "keywords.parquet", "weights.safetensors", "about.json"
LEARNT, TAGS = arrow_schema("picture_keywords"), arrow_schema("tags")
VERSION = 1
ROUTE = "pictures"
# Posts that are read, and that are scored over all keywords, at once.
TABLE_ROWS, ROWS = 5_000, 1_000
# Bytes of memory: of the libraries and a part of posts, and of a byte of the map's files.
MEMORY, MAP_BYTES = 350_000_000, 5
# Each character of print is read six times: alone, in two pairs and in three threes.
PRINT_WEIGHT = 1 / 6
# Wordings repeat each other (codes of two sizes); halved, few sums lie beyond what can be calibrated.
DAMPING = 0.5
# Fainter raw scores are those of no keyword, nor are those of a post after its best.
FLOOR, MOST_SCORES = 0.1, 2 * MOST_KEYWORDS


@dataclass(frozen=True)
class Said:
    """Features of what the pictures of some posts say: columns of the same length, ordered by post.

    `posts`: row of the post; `wordings`: place of the wording among all of the table; `keys`: channel and hashed feature in
    one number (all int64); `printed`: whether it is print (bool).
    """

    posts: np.ndarray
    wordings: np.ndarray
    keys: np.ndarray
    printed: np.ndarray

    def keep(self, mask: np.ndarray) -> "Said":
        """Return the features where `mask` holds."""
        return Said(self.posts[mask], self.wordings[mask], self.keys[mask], self.printed[mask])


def hear(table: pa.Table, channels: Mapping[str, int]) -> Said:
    """Return the features of a table's wordings, for posts whose channel has a number in `channels`.

    The columns `wordings` and `channel` are all that is read: the text of a post is never looked at.
    """
    offsets, values = list_parts(table["wordings"].combine_chunks())
    owner = np.repeat(np.arange(len(table)), np.diff(offsets))
    words = pc.fill_null(values.field("word"), "")
    is_print = pc.fill_null(pc.equal(values.field("kind"), "ocr"), False)
    printed = is_print.to_numpy(zero_copy_only=False)
    ends = pa.array(np.concatenate([[0], np.cumsum(~printed)]), pa.int32())
    nothing = pa.nulls(len(values), pa.string())
    lines = {
        "text": pc.if_else(is_print, words, ""),
        "author": nothing,
        "channel": nothing,
        "wordings": pa.ListArray.from_arrays(ends, values.filter(pc.invert(is_print))),
    }
    wordings, features = hash_features(pa.table(lines))
    numbers = (channels.get(channel, -1) for channel in table["channel"].to_pylist())
    channel = np.fromiter(numbers, np.int64, len(table))[owner[wordings]]
    order = np.argsort(owner[wordings], kind="stable")
    order = order[channel[order] >= 0]
    wordings = wordings[order]
    return Said(owner[wordings], wordings, channel[order] << BITS | features[order], printed[wordings])


def arrange(said: Said, keys: np.ndarray, posts: int) -> csr_matrix:
    """Return what posts say as float32 csr_matrix (posts x keys): 1, of print `PRINT_WEIGHT`; `keys` are ascending."""
    places = np.searchsorted(keys, said.keys)
    first = first_of_each(said.posts * len(keys) + places)
    values = np.where(said.printed[first], PRINT_WEIGHT, 1).astype(np.float32)
    return csr_matrix((values, (said.posts[first], places[first])), shape=(posts, len(keys)))


def add_up(posts: csr_matrix, weights: csr_matrix, prior: np.ndarray) -> csr_matrix:
    """Return raw scores (posts x keywords, float32) of the keywords that the wordings speak for, not against: the best.

    `weights` (keys x keywords) are logarithms of likelihood ratios, `prior` (keywords,) log odds.
    """
    blocks = [csr_matrix((0, weights.shape[1]), dtype=np.float32)]
    for start in range(0, posts.shape[0], ROWS):
        sums = csr_matrix(posts[start : start + ROWS] @ weights)
        raw = expit(DAMPING * (sums.data + prior[sums.indices]))
        kept = (sums.data > 0) & (raw >= FLOOR)
        indptr = np.concatenate([[0], np.cumsum(kept)])[sums.indptr]
        blocks.append(keep_best(csr_matrix((raw[kept].astype(np.float32), sums.indices[kept], indptr), shape=sums.shape)))
    return csr_matrix(vstack(blocks, format="csr"))


def keep_best(scores: csr_matrix) -> csr_matrix:
    """Return the `MOST_SCORES` highest scores of each post; of equal ones those of the first keywords."""
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    order = np.lexsort((scores.indices, -scores.data, rows))
    order = np.sort(order[rank_in_runs(rows) < MOST_SCORES])
    indptr = np.searchsorted(rows[order], np.arange(scores.shape[0] + 1))
    return csr_matrix((scores.data[order], scores.indices[order], indptr), shape=scores.shape)


class PictureMap:
    """Which wordings speak for which keywords of each channel, and from which score on a keyword is given.

    `channels` are numbered by their place; `keywords` is a table of schema "picture_keywords"; `keys` (int64, ascending) are
    channels and features; `weights` (keys x keywords) and `prior` as for `add_up`; `calibration` has a slope and an offset
    for each keyword.
    """

    def __init__(
        self,
        channels: Sequence[str],
        keywords: pa.Table,
        keys: np.ndarray,
        weights: csr_matrix,
        prior: np.ndarray,
        calibration: Calibration,
    ) -> None:
        self.channels = {name: number for number, name in enumerate(channels)}
        self.keywords, self.keys, self.weights, self.prior, self.calibration = keywords, keys, weights, prior, calibration
        # A keyword that is refused has no threshold: no score reaches it.
        self.thresholds = pc.fill_null(keywords["threshold"], 2.0).to_numpy()
        self._words = keywords["keyword"].combine_chunks()

    def find(self, table: pa.Table) -> pa.Table:
        """Return rows of schema "tags" for posts with wordings: keywords that their pictures show, best first.

        For each keyword `evidence` has, at the same place, the wording that spoke for it most; its kind is the source. A
        face that has a name says that name, with the face's own score.
        """
        said = hear(table, self.channels)
        known = np.isin(said.keys, self.keys)
        said = said.keep(known)
        scores = self.calibration.apply(add_up(arrange(said, self.keys, len(table)), self.weights, self.prior))
        posts = np.repeat(np.arange(len(table)), np.diff(scores.indptr))
        shown = scores.data >= self.thresholds[scores.indices]
        posts, words, found = posts[shown], scores.indices[shown], scores.data[shown]
        spoke = self._find_wordings(said, posts, words)
        return _list_keywords(table, posts, self._words.take(pa.array(words)), found, spoke)

    def _find_wordings(self, said: Said, posts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return for each pair of post and keyword the place of the wording whose features speak for it most."""
        low, high = np.searchsorted(said.posts, [posts, posts + 1])
        pair = np.repeat(np.arange(len(posts)), high - low)
        entry = np.arange(len(pair)) - np.repeat(np.cumsum(high - low) - high, high - low)
        places = np.searchsorted(self.keys, said.keys[entry])
        weight = np.asarray(self.weights[places, words[pair]]).ravel() if len(pair) else np.empty(0)
        weight = weight * np.where(said.printed[entry], PRINT_WEIGHT, 1)
        both, spot = np.unique(np.stack([pair, said.wordings[entry]]), axis=1, return_inverse=True)
        sums = np.bincount(spot, weight, minlength=both.shape[1])
        order = np.lexsort((both[1], -sums, both[0]))
        return both[1, order[rank_in_runs(both[0, order]) == 0]]

    def save(self, folder: Path) -> None:
        """Write the map as a folder of data files, whole or not at all; an older one at that place is replaced."""
        from safetensors.numpy import save_file

        weights = self.weights
        parts = {
            "keys": self.keys,
            "prior": self.prior.astype(np.float32),
            "slope": self.calibration.slope,
            "offset": self.calibration.offset,
            "data": weights.data.astype(np.float32),
            "indices": weights.indices.astype(np.int32),
            "indptr": weights.indptr.astype(np.int64),
        }
        with replace_folder(folder) as fresh:
            write_parquet(self.keywords, fresh / KEYWORDS_FILE)
            save_file({name: np.ascontiguousarray(part) for name, part in parts.items()}, fresh / WEIGHTS_FILE)
            write_json({"version": VERSION, "channels": list(self.channels)}, fresh / ABOUT_FILE)


def load_map(folder: Path) -> PictureMap:
    """Read what `PictureMap.save` wrote; raises ModelError when the folder is none, or not whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("version") != VERSION:
            raise ModelError(f"{folder}: a map of another version; learn it anew: weibotag keywords map train")
        keywords = pq.read_table(folder / KEYWORDS_FILE, schema=LEARNT)
        parts = load_file(folder / WEIGHTS_FILE)
        shape = (len(parts["keys"]), len(keywords))
        weights = csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
        calibration = Calibration(parts["slope"], parts["offset"])
        return PictureMap(about["channels"], keywords, parts["keys"], weights, parts["prior"], calibration)
    except (OSError, ValueError, KeyError, pa.ArrowException, SafetensorError) as error:
        said = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder}: not a map of pictures to keywords ({said}): weibotag keywords map train") from error


def foresee_mapping(source: PostsSource, folder: Path) -> str:
    """Return in one line what mapping posts takes, by the size of the map."""
    size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    return f"{source.path}: read in parts, up to {(MEMORY + MAP_BYTES * size) / 1e9:.1f} GB of memory"


def map_posts(
    source: PostsSource, folder: Path, out: str, words: Mapping[str, str], wordings: Path | None
) -> dict[str, Any]:
    """Write the keywords that the pictures of posts show to `out` (schema "tags"), and return a summary.

    `words` and `wordings` as for `read_pictured`.
    """
    refuse_outputs(source, Path(out))
    found = load_map(folder)
    rejects = Rejects(None)
    counts: Counter[str] = Counter()

    def find() -> Iterator[pa.Table]:
        for table in read_pictured(source, rejects, words, wordings):
            answer = found.find(table)
            lengths = pc.list_value_length(answer["keywords"]).to_numpy()
            counts.update(posts_with=int((lengths > 0).sum()), keywords=int(lengths.sum()))
            yield answer

    return {"posts": write_tables(find(), out, TAGS), **counts, "rejects": rejects.count, "out": out}


def read_pictured(
    source: PostsSource, rejects: Rejects, words: Mapping[str, str], wordings: Path | None
) -> Iterator[pa.Table]:
    """Give posts tables with the column `wordings`: their own, that of a file, and what `words` names (see `add_given`).

    Raises RequestError where there is none of them, or the column is not as `weibotag wordings` writes it.
    """
    for table in read_posts(source, rejects, TABLE_ROWS):
        table = join_wordings(table, wordings, source.path)
        table = add_given(table, words)
        if "wordings" not in table.column_names:
            raise RequestError(
                f"{source.path}: no column wordings, so nothing is known of the pictures; look at them with `weibotag "
                f"wordings {source.path} -o W.parquet`, then give --wordings W.parquet; or give --words KIND=COLUMN"
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
    said = [values.field(name).take(spoken) for name in ("word", "media_id", "box")]
    evidence = [pa.nulls(len(order), pa.string()), source, *said]
    columns: dict[str, Any] = {
        "post_id": table["post_id"],
        "tags": pa.array([[]] * len(table), TAGS.field("tags").type),
        "keywords": pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(keyword, fields=list(KEYWORD))),
        "route": pa.repeat(ROUTE, len(table)),
        "evidence": pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(evidence, fields=list(EVIDENCE))),
        "error": pa.nulls(len(table), pa.string()),
    }
    return pa.table(columns, schema=TAGS)
