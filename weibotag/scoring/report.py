"""Compare what was predicted with gold tags and keywords."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.errors import RequestError
from weibotag.core.text_matching import fold
from weibotag.scoring import metrics
from weibotag.scoring.metrics import Agreement, Ranked
from weibotag.scoring.report_tables import (
    CutFigures,
    KeywordFigures,
    ModalityFigures,
    Report,
    RouteFigures,
    TagAgreement,
    TagReport,
    TagsAgreement,
    TagSummary,
)
from weibotag.taxonomy.tree import Taxonomy, label_matrix

MODALITIES = ("neither", "text only", "pictures only", "text and pictures", "short text and pictures")
# 爱了爱了, 绝绝子, 太好看了吧: so few characters seldom say what a picture shows.
SHORT_CHARACTERS = 10
ROUTE_UNKNOWN = "unknown"
FREQUENCIES = ("head", "torso", "tail")
CUTS = (1, 3, 5)


@dataclass
class _Pairs:
    """(row, column, score) triples, gathered table by table; a column of -1 is no pair."""

    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray) -> None:
        known = (rows >= 0) & (columns >= 0)
        self.parts.append((rows[known], columns[known], scores[known]))

    def rank(self) -> Ranked:
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float64))
        rows, columns, scores = (np.concatenate(parts) for parts in zip(empty, *self.parts, strict=True))
        return metrics.rank(rows, columns, scores)


@dataclass
class _Gold:
    """Gold posts: arrays have one entry per post; `unknown_tags` counts (post, tag) pairs."""

    row_of: dict[str, int]
    labelled: np.ndarray
    modality: np.ndarray
    tags: Ranked
    keywords: Ranked
    unknown_tags: int


@dataclass
class _Predicted:
    """Predictions for the gold posts, in their rows; `strangers` counts predicted posts without a gold row."""

    seen: np.ndarray
    route: np.ndarray
    tags: Ranked
    keywords: Ranked
    strangers: int


def evaluate(
    predicted: Iterable[pa.Table],
    gold: Iterable[pa.Table],
    taxonomy: Taxonomy,
    train: Iterable[pa.Table] | None = None,
) -> Report:
    """Return the report, ready for JSON, on tables "tags" (`predicted`) against tables "posts" (`gold`), any order.

    Posts are joined by post_id. Gold and predicted tags are compared with their ancestors added (closed sets). How frequent
    a tag is, is counted in the posts of `train` (tables "posts", ancestors added), or without them in `gold`. Raises
    RequestError when there are neither gold tags nor keywords, when a post_id comes twice, or when a predicted tag is not in
    the taxonomy.
    """
    vocabulary: dict[str, int] = {}
    truth = _read_gold(gold, taxonomy, vocabulary)
    answer = _read_predicted(predicted, truth.row_of, taxonomy, vocabulary)
    keywords = _compare_keywords(truth, answer, len(vocabulary))
    if keywords is None and not truth.labelled.any():
        raise RequestError(
            f"none of {len(truth.labelled)} posts has gold tags or keywords: POSTS needs a column 'tags' or "
            "'keywords'; name yours with --column tags=THEIRS"
        )
    return {
        "posts": int(truth.labelled.sum()),
        **_compare_tags(truth, answer, taxonomy, None if train is None else _count_training(train, taxonomy)),
        "keywords": keywords,
        "missing": int((truth.labelled & ~answer.seen).sum()),
        "unlabelled": int((~truth.labelled).sum()) + answer.strangers,
        "unknown_tags": truth.unknown_tags,
    }


def _compare_tags(
    truth: _Gold, answer: _Predicted, taxonomy: Taxonomy, training: tuple[np.ndarray, int] | None
) -> TagReport:
    posts, depth = len(truth.labelled), taxonomy.depth
    shape = (posts, len(taxonomy.ids))
    closure = taxonomy.closure_matrix()
    ranked = answer.tags.keep(truth.labelled[answer.tags.rows])
    gold = metrics.close(truth.tags.matrix(shape), closure)
    predicted = metrics.close(ranked.matrix(shape), closure)
    by_post = metrics.count(gold, predicted, axis=1)
    by_tag = metrics.count(gold, predicted, axis=0)
    right = metrics.contains(gold, ranked)
    leaf_right = metrics.right_at_1(ranked, right, closure, posts)
    scored = ~np.isnan(ranked.scores)
    micro = metrics.agreement(by_tag.sum(axis=1))
    summary: TagSummary = {
        "micro_f1": micro["f1"],
        "micro_precision": micro["precision"],
        "micro_recall": micro["recall"],
        "macro_f1": metrics.macro_f1(by_tag),
        "leaf_p_at_1": _share(leaf_right, by_post[1] > 0),
        "p_at_5": metrics.precision_at_5(ranked, right, by_post),
        "hierarchical_f1": metrics.hierarchical_f1(by_post[:, truth.labelled]),
        "ece": metrics.expected_calibration_error(ranked.scores[scored], right[scored]),
    }
    if not truth.labelled.any():
        summary = cast(TagSummary, dict.fromkeys(summary))
    counts, trained = training or (by_tag[1], int(truth.labelled.sum()))
    frequency = metrics.divide_by_frequency(counts)
    kinds = np.where(truth.labelled, truth.modality, -1)
    return {
        **summary,
        "at_k": _at_k(ranked, right, gold, 1 / metrics.propensities(counts, trained), frequency),
        "ece_pairs": int(scored.sum()),
        "per_level": {str(level): _describe_tags(by_tag[:, depth == level]) for level in np.unique(depth).tolist()},
        "per_frequency": {name: _describe_tags(by_tag[:, frequency == at]) for at, name in enumerate(FREQUENCIES)},
        "per_tag": _per_tag(by_tag, taxonomy.ids),
        "per_route": _per_route(by_post, answer.route, truth.labelled & answer.seen),
        "per_modalities": _per_modalities(ranked, right, leaf_right, by_post, kinds),
    }


def _share(right: np.ndarray, among: np.ndarray) -> float:
    return float(metrics.divide((right & among).sum(), among.sum()))


def _count_training(tables: Iterable[pa.Table], taxonomy: Taxonomy) -> tuple[np.ndarray, int]:
    """Return how many training posts each tag has, ancestors added, and how many of them are labelled."""
    closure = taxonomy.closure_matrix()
    counts, posts = np.zeros(len(taxonomy), np.int64), 0
    for table in tables:
        given = label_matrix(table["tags"], taxonomy)
        counts += np.bincount(metrics.close(given, closure).indices, minlength=len(taxonomy))
        posts += len(table) - table["tags"].null_count
    if not posts:
        raise RequestError("none of the training posts has tags: --train needs posts with a column 'tags'")
    return counts, posts


def _at_k(
    ranked: Ranked, right: np.ndarray, gold: csr_matrix, worth: np.ndarray, frequency: np.ndarray
) -> dict[str, CutFigures]:
    rows, columns = gold.nonzero()
    if not len(rows):
        return {}
    best = metrics.rank(rows.astype(np.int64), columns.astype(np.int64), worth[columns])
    groups = [(ranked, right, len(np.unique(rows)))]
    for number in range(len(FREQUENCIES)):
        inside = frequency[ranked.columns] == number
        groups.append((ranked.keep(inside), right[inside], len(np.unique(rows[frequency[columns] == number]))))
    cuts: dict[str, CutFigures] = {}
    for k in CUTS:
        found = worth[ranked.columns[right & (ranked.place < k)]].sum()
        whole, head, torso, tail = (metrics.precision_at(own, own_right, k, posts) for own, own_right, posts in groups)
        cuts[str(k)] = {
            "precision": whole,
            "propensity_scored": float(metrics.divide(found, worth[best.columns[best.place < k]].sum())),
            "head": head,
            "torso": torso,
            "tail": tail,
        }
    return cuts


def _describe_tags(by_tag: np.ndarray) -> TagsAgreement:
    """Return the agreement over some tags together, and how many they are and have."""
    hits, gold, predicted = by_tag.sum(axis=1)
    return {
        **metrics.agreement(np.array([hits, gold, predicted])),
        "tags": by_tag.shape[1],
        "gold": int(gold),
        "predicted": int(predicted),
    }


def _per_tag(by_tag: np.ndarray, ids: tuple[str, ...]) -> dict[str, TagAgreement]:
    tags = np.flatnonzero(by_tag[1] + by_tag[2])
    counts = by_tag[:, tags]
    columns = {**metrics.agreements(counts), "gold": counts[1], "predicted": counts[2]}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    found = {ids[tag]: dict(zip(columns, row, strict=True)) for tag, row in zip(tags.tolist(), rows, strict=True)}
    return cast(dict[str, TagAgreement], found)


def _per_route(by_post: np.ndarray, route: np.ndarray, counted: np.ndarray) -> dict[str, RouteFigures]:
    routes: dict[str, RouteFigures] = {}
    for name in sorted(set(route[counted].tolist())):
        inside = counted & (route == name)
        routes[name] = {"posts": int(inside.sum()), "micro_f1": metrics.agreement(by_post[:, inside].sum(axis=1))["f1"]}
    return routes


def _per_modalities(
    ranked: Ranked, right: np.ndarray, leaf_right: np.ndarray, by_post: np.ndarray, modality: np.ndarray
) -> dict[str, ModalityFigures]:
    groups: dict[str, ModalityFigures] = {}
    for number in np.unique(modality[modality >= 0]).tolist():
        inside = modality == number
        scored = inside[ranked.rows] & ~np.isnan(ranked.scores)
        groups[MODALITIES[number]] = {
            "posts": int(inside.sum()),
            "micro_f1": metrics.agreement(by_post[:, inside].sum(axis=1))["f1"],
            "leaf_p_at_1": _share(leaf_right, inside & (by_post[1] > 0)),
            "ece": metrics.expected_calibration_error(ranked.scores[scored], right[scored]),
        }
    return groups


def _compare_keywords(truth: _Gold, answer: _Predicted, words: int) -> KeywordFigures | None:
    """Return the figures of keywords; None where no post has gold ones."""
    shape = (len(truth.labelled), words)
    gold = truth.keywords.matrix(shape)
    has_gold = gold.getnnz(axis=1) > 0
    if not has_gold.any():
        return None
    ranked = answer.keywords.keep(has_gold[answer.keywords.rows])
    first_ten = ranked.keep(ranked.place < 10)

    def compare(pairs: Ranked) -> Agreement:
        return metrics.agreement(metrics.count(gold, pairs.matrix(shape), axis=1).sum(axis=1))

    return {"posts": int(has_gold.sum()), **compare(ranked), "recall_at_10": compare(first_ten)["recall"]}


def _read_gold(tables: Iterable[pa.Table], taxonomy: Taxonomy, vocabulary: dict[str, int]) -> _Gold:
    row_of: dict[str, int] = {}
    labelled, modality = [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=np.int64)]
    tags, keywords = _Pairs(), _Pairs()
    unknown_tags = 0
    for table in tables:
        start = len(row_of)
        for row, post_id in enumerate(table["post_id"].to_pylist(), start):
            if row_of.setdefault(post_id, row) != row:
                raise RequestError(f"post_id {post_id!r} comes twice in the gold posts: keep one row per post")
        rows, ids = _flatten(table["tags"])
        columns = _number(ids, lambda word: -1 if (number := taxonomy.find(word)) is None else number)
        unknown_tags += int((columns < 0).sum())
        tags.add(rows + start, columns, np.zeros(len(rows)))
        rows, words = _flatten(table["keywords"])
        keywords.add(rows + start, _number(words, _fold_into(vocabulary)), np.zeros(len(rows)))
        labelled.append(table["tags"].is_valid().to_numpy())
        modality.append(find_modality(table))
    return _Gold(row_of, np.concatenate(labelled), np.concatenate(modality), tags.rank(), keywords.rank(), unknown_tags)


def find_modality(table: pa.Table) -> np.ndarray:
    """Return for each post the place of what it has in `MODALITIES`."""
    characters = pc.utf8_length(pc.utf8_trim_whitespace(table["text"])).fill_null(0).to_numpy()
    files = [pc.list_value_length(table[name]).fill_null(0).to_numpy() for name in ("images", "videos")]
    has_pictures = np.sum(files, axis=0) > 0
    is_short = has_pictures & (characters <= SHORT_CHARACTERS)
    return np.where(characters > 0, 1 + 2 * has_pictures + is_short, 2 * has_pictures)


def _read_predicted(
    tables: Iterable[pa.Table], row_of: dict[str, int], taxonomy: Taxonomy, vocabulary: dict[str, int]
) -> _Predicted:
    seen = np.zeros(len(row_of), dtype=bool)
    route = np.full(len(row_of), ROUTE_UNKNOWN, dtype=object)
    tags, keywords = _Pairs(), _Pairs()
    strangers = 0
    for table in tables:
        at = np.array([row_of.get(post_id, -1) for post_id in table["post_id"].to_pylist()], dtype=np.int64)
        known = at[at >= 0]
        strangers += len(at) - len(known)
        repeated = seen[known] | (np.bincount(known, minlength=len(seen))[known] > 1)
        if repeated.any():
            post_id = table["post_id"][int(np.flatnonzero(at >= 0)[repeated][0])]
            raise RequestError(f"post_id {str(post_id)!r} comes twice in the predictions: keep one row per post")
        seen[known] = True
        route[known] = [name or ROUTE_UNKNOWN for name in np.asarray(table["route"].to_pylist(), dtype=object)[at >= 0]]
        rows, found = _flatten(table["tags"])
        tags.add(
            at[rows],
            _number(pc.struct_field(found, "id"), _find_in(taxonomy)),
            _floats(pc.struct_field(found, "score")),
        )
        rows, found = _flatten(table["keywords"])
        words = _number(pc.struct_field(found, "keyword"), _fold_into(vocabulary))
        keywords.add(at[rows], words, _floats(pc.struct_field(found, "score")))
    return _Predicted(seen, route, tags.rank(), keywords.rank(), strangers)


def _flatten(lists: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    whole = lists.combine_chunks()
    return pc.list_parent_indices(whole).to_numpy().astype(np.int64), pc.list_flatten(whole)


def _floats(scores: pa.Array) -> np.ndarray:
    return np.asarray(scores.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _number(words: pa.Array, number_of: Callable[[str], int]) -> np.ndarray:
    """Return the number of every word as int64, asking once per distinct word; -1 for null."""
    encoded = words.dictionary_encode()
    numbers = np.array([number_of(word) for word in encoded.dictionary.to_pylist()] + [-1], dtype=np.int64)
    return np.asarray(numbers[encoded.indices.fill_null(len(numbers) - 1).to_numpy()])


def _find_in(taxonomy: Taxonomy) -> Callable[[str], int]:
    def find(tag_id: str) -> int:
        if tag_id not in taxonomy.index:
            raise RequestError(
                f"predicted tag {tag_id!r} is not in the taxonomy: use the taxonomy that the posts were tagged with"
            )
        return taxonomy.index[tag_id]

    return find


def _fold_into(vocabulary: dict[str, int]) -> Callable[[str], int]:
    def number(word: str) -> int:
        folded = fold(word).strip()
        return vocabulary.setdefault(folded, len(vocabulary)) if folded else -1

    return number
