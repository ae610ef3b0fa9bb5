"""Labelled posts: gold tags, the rows to choose on."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix, vstack

from weibotag.core.errors import RequestError
from weibotag.posts.reader import matches
from weibotag.runtime.run_folder import Run
from weibotag.scoring.closure import raise_parents
from weibotag.taggers.fasttext import write_documents
from weibotag.taxonomy.tree import Taxonomy, count_unknown, label_matrix, warn_of_unknown

VALID_SHARE = 0.1
FEWEST_OF_STRATUM = 10
# In training, half of the posts don't say author and channel, so that the model does without them where they are absent.
WHISPER_SHARE = 0.5
WORTHWHILE = 0.005


@dataclass(frozen=True)
class Dataset:
    """Labelled posts: tables with wordings, and their gold tags (posts x tags, ancestors included, none without)."""

    tables: list[pa.Table]
    gold: csr_matrix

    def write_lines(self, spacing: str) -> list[str]:
        """Return the lines for fastText."""
        return [line for table in self.tables for line in write_documents(table, spacing)]


def mark_valid(run: Run, parts: Sequence[str], valid: str | None, taxonomy: Taxonomy) -> dict[str, np.ndarray]:
    """Return, per part, a bool per post: whether it is held out.

    Raises RequestError when no post with a tag of the taxonomy is held out, or none is left to train on.
    """
    if not parts:
        raise RequestError("no post to train on: the input, or what --where leaves of it, has no row that can be used")
    tables = {part: pq.read_table(run.path("posts", part)) for part in parts}
    labelled = {part: np.diff(gold_matrix([table], taxonomy).indptr) > 0 for part, table in tables.items()}
    warn_of_unknown(count_unknown(tables.values(), taxonomy))
    if valid is not None:
        marks = {part: matches(table, valid) for part, table in tables.items()}
    else:
        ids = [post_id for table in tables.values() for post_id in table["post_id"].to_pylist()]
        strata = [tags[0] if tags else "" for table in tables.values() for tags in table["tags"].to_pylist()]
        drawn = draw_valid(ids, strata, np.concatenate(list(labelled.values())))
        marks = dict(zip(tables, np.split(drawn, np.cumsum([len(table) for table in tables.values()])[:-1]), strict=True))
    held = sum(int((marks[part] & labelled[part]).sum()) for part in tables)
    left = sum(int((~marks[part] & labelled[part]).sum()) for part in tables)
    if not left or not held:
        where = "a tenth of them" if valid is None else f"where {valid}"
        raise RequestError(
            f"of {sum(map(len, tables.values())):,} posts {left:,} have a tag of the taxonomy and are left to train on, "
            f"{held:,} are held out ({where}); both must be above 0: tags are read from a column tags, or --column tags=NAME"
        )
    return marks


def draw_valid(post_ids: Sequence[str], strata: Sequence[str], labelled: np.ndarray) -> np.ndarray:
    """Return a bool per post: a tenth of each stratum, those whose ids have the lowest hashes.

    The unlabelled are a stratum of their own, and the labelled posts of all strata of fewer than ten are one together.
    """
    hashes = np.array([blake(post_id) for post_id in post_ids])
    sizes = Counter(stratum for stratum, one in zip(strata, labelled, strict=True) if one)
    groups = [
        (0, "") if not one else (2, stratum) if sizes[stratum] >= FEWEST_OF_STRATUM else (1, "")
        for stratum, one in zip(strata, labelled, strict=True)
    ]
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    names = np.array([numbers[group] for group in groups])
    order = np.lexsort((hashes, names))
    names = names[order]
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1])) if len(names) else np.empty(0, int)
    lengths = np.diff(np.append(starts, len(names)))
    rank = np.arange(len(names)) - np.repeat(starts, lengths)
    drawn = np.zeros(len(names), bool)
    drawn[order] = rank < np.round(np.repeat(lengths, lengths) * VALID_SHARE)
    return drawn


def gold_matrix(tables: Sequence[pa.Table], taxonomy: Taxonomy) -> csr_matrix:
    """Return the posts' tags with their ancestors, float32 0/1 csr_matrix (posts x tags); unknown tags are left out."""
    blocks = [raise_parents(label_matrix(table["tags"], taxonomy), taxonomy) for table in tables]
    return csr_matrix(vstack(blocks)) if blocks else csr_matrix((0, len(taxonomy)), dtype=np.float32)


def hide_author_and_channel(table: pa.Table) -> pa.Table:
    """Return posts of which half, by a hash of the id, say neither author nor channel."""
    quiet = pa.array([int(blake(post_id), 16) % 100 < 100 * WHISPER_SHARE for post_id in table["post_id"].to_pylist()])
    for name in ("author", "channel"):
        spoken = pc.if_else(quiet, "", table[name])
        table = table.set_column(table.column_names.index(name), name, spoken)
    return table


def blake(text: str) -> str:
    """Return a hash of a text, 16 hex digits, the same in every process."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
