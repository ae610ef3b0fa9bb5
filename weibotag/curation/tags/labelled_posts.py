"""Labelled posts as an audit looks at them: what taggers read, and who gave which tags."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csc_matrix, csr_matrix

from weibotag.core.errors import RequestError
from weibotag.features.hashed_ngrams import READ
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource
from weibotag.taxonomy.tree import Taxonomy, count_unknown, label_matrix, warn_of_unknown
from weibotag.training.dataset import blake, gold_matrix

# Posts that are shown as evidence.
EXAMPLES = 5
# Fewer posts teach a classifier nothing.
FEWEST_TO_LEARN = 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """Labelled posts: their ids, what taggers read of them (`posts`), their tags as given and with ancestors (posts x tags,
    float32 0/1), their annotators (None without such a column), and how often tags occur that the taxonomy does not have."""

    ids: list[str]
    posts: pa.Table
    given: csr_matrix
    gold: csr_matrix
    annotators: np.ndarray | None
    unknown: dict[str, int]


@dataclass(frozen=True)
class PostsByTag:
    """The posts of each tag: `gold` (posts x tags, 0/1, ancestors included) in the numbers of `taxonomy`, and their ids."""

    taxonomy: Taxonomy
    gold: csc_matrix
    ids: Sequence[str]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Return the number of posts of each tag."""
        return np.diff(self.gold.indptr)

    def rows(self, *tags: int) -> np.ndarray:
        """Return the rows of the posts that carry all of the tags, ascending."""
        starts = self.gold.indptr
        return reduce(np.intersect1d, [self.gold.indices[starts[tag] : starts[tag + 1]] for tag in tags])

    def examples(self, *tags: int) -> tuple[str, ...]:
        """Return the ids of some posts that carry all of the tags."""
        return tuple(self.ids[row] for row in self.rows(*tags)[:EXAMPLES])


def read_labelled(source: PostsSource, taxonomy: Taxonomy, annotator: str | None) -> Labelled:
    """Read the posts that carry tags of the taxonomy; raises RequestError when none does, or `annotator` is no column."""
    rejects = Rejects()
    tables, count = [pa.table({"tags": pa.array([], pa.list_(pa.string()))})], 0
    for table in read_posts(source, rejects):
        count += len(table)
        if annotator is not None and annotator not in table.column_names:
            raise RequestError(f"--annotator {annotator}: no such column; found {', '.join(table.column_names)}")
        people = pc.fill_null(table[annotator].cast(pa.string()), "") if annotator else pa.repeat("", len(table))
        read = table.select(["post_id", "tags", *list_read(table)])
        tables.append(read.append_column("annotator", people).filter(pc.is_valid(table["tags"])))
    if rejects.count:
        log.warning("%s rows of %s could not be used", f"{rejects.count:,}", source.path)
    posts = pa.concat_tables(tables, promote_options="default")
    given = label_matrix(posts["tags"], taxonomy)
    unknown = count_unknown([posts], taxonomy)
    warn_of_unknown(unknown, taxonomy)
    known = np.diff(given.indptr) > 0
    if not known.any():
        raise RequestError(
            f"{source.path}: none of {count:,} posts has a tag of the taxonomy; tags are read from a column tags, or "
            "--column tags=NAME"
        )
    posts = posts.filter(pa.array(known)).combine_chunks()
    annotators = posts["annotator"].to_numpy() if annotator else None
    kept = posts.drop(["tags", "annotator"])
    return Labelled(posts["post_id"].to_pylist(), kept, given[known], gold_matrix([posts], taxonomy), annotators, unknown)


def list_read(table: pa.Table) -> list[str]:
    """Return the columns of a posts table that taggers read; wordings that are text are none of them."""
    names = [name for name in READ if name in table.column_names]
    kind = table.schema.field("wordings").type if "wordings" in names else None
    is_plain = kind is not None and not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))
    return [name for name in names if name != "wordings" or not is_plain]


def can_learn(vectors: csr_matrix) -> bool:
    """Return whether there are posts and features enough for a classifier."""
    return int(vectors.shape[0]) >= FEWEST_TO_LEARN and int(vectors.shape[1]) > 0


def draw_folds(ids: Sequence[str], folds: int) -> np.ndarray:
    """Return the number of the fold of each post, from 0, by a hash of its id: int64 (posts,)."""
    return np.array([int(blake(post_id), 16) % folds for post_id in ids])
