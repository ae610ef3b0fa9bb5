"""Labelled posts as an audit looks at them: what taggers read, and who gave which tags."""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.errors import RequestError
from weibotag.features.hashed_ngrams import READ
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource
from weibotag.taxonomy.labels import count_unknown, label_matrix
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.dataset import gold_matrix

# Unknown tags that are named in a warning.
NAMED = 3

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


def read_labelled(source: PostsSource, taxonomy: Taxonomy, annotator: str | None) -> Labelled:
    """Read the posts that carry tags of the taxonomy; raises RequestError when none does, or `annotator` is no column."""
    rejects = Rejects()
    tables, count = [], 0
    for table in read_posts(source, rejects):
        count += len(table)
        if annotator is not None and annotator not in table.column_names:
            raise RequestError(f"--annotator {annotator}: no such column; found {', '.join(table.column_names)}")
        people = pc.fill_null(table[annotator].cast(pa.string()), "") if annotator else pa.repeat("", len(table))
        read = table.select(["post_id", "tags", *(name for name in READ if is_read(table, name))])
        tables.append(read.append_column("annotator", people).filter(pc.is_valid(table["tags"])))
    if rejects.count:
        log.warning("%s rows of %s could not be used", f"{rejects.count:,}", source.path)
    posts = (
        pa.concat_tables(tables, promote_options="default")
        if count
        else pa.table({"tags": pa.array([], pa.list_(pa.string()))})
    )
    given = label_matrix(posts["tags"], taxonomy)
    unknown = count_unknown([posts], taxonomy)
    if unknown:
        most = ", ".join(f"{tag} ({number})" for tag, number in list(unknown.items())[:NAMED])
        log.warning("%s tags of the posts are not in the taxonomy: %s …", f"{len(unknown):,}", most)
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


def is_read(table: pa.Table, name: str) -> bool:
    """Return whether a posts table has a column that taggers read, as they read it: wordings that are text are none."""
    if name not in table.column_names:
        return False
    kind = table.schema.field(name).type
    return name != "wordings" or (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))
