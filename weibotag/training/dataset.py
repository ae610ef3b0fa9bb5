"""Labelled posts, the rows to choose on; what learners are given, and what they return."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import rank_in_runs
from weibotag.core.errors import RequestError
from weibotag.posts.condition import matches
from weibotag.runtime.run_folder import Run
from weibotag.scoring.closure import raise_parents
from weibotag.taggers.fasttext import Settings, write_documents
from weibotag.taggers.tagger import Ensemble
from weibotag.taxonomy.tree import Taxonomy, count_unknown, label_matrix, warn_of_unknown
from weibotag.vision.stage import hash_weights

VALID_SHARE = 0.1
FEWEST_OF_STRATUM = 10
# In training, half of the posts don't say author and channel, so that the model does without them where they are absent.
WHISPER_SHARE = 0.5
WORTHWHILE = 0.005
# Figures of fewer held-out rows than this are chance; so many rows to train on can take their place, learnt from in folds.
FEW_HELD, FEWEST_TO_CROSS, MOST_TO_CROSS = 100, 20, 5_000


@dataclass(frozen=True)
class Dataset:
    """Labelled posts: tables with wordings, and their gold tags (posts x tags, ancestors included, none without)."""

    tables: list[pa.Table]
    gold: csr_matrix

    def __len__(self) -> int:
        return int(self.gold.shape[0])

    def write_lines(self, spacing: str) -> list[str]:
        """Return the lines for fastText."""
        return [line for table in self.tables for line in write_documents(table, spacing)]


def mark_valid(run: Run, parts: Sequence[str], valid: str | None, taxonomy: Taxonomy) -> dict[str, np.ndarray]:
    """Return, per part, a bool per post: whether it is held out; no post is to test on (see `draw_sides`)."""
    return draw_sides(run, parts, taxonomy, valid, None, with_test=False)[0]


def draw_sides(
    run: Run, parts: Sequence[str], taxonomy: Taxonomy, valid: str | None, test: str | None, with_test: bool = True
) -> tuple[dict[str, np.ndarray], pa.Array]:
    """Return, per part, a bool per post: whether it is kept from training; and the ids of those to test on.

    Posts where the expression `test` is true are tested on, else about a fifth of each first tag, by a hash of the id; those
    where `valid` is true, else a tenth of the rest, are held out to choose on. Raises RequestError when no post with a tag
    of the taxonomy is on one of the sides.
    """
    if not parts:
        raise RequestError("no post to train on: the input, or what --where leaves of it, has no row that can be used")
    tables = [run.read("posts", part) for part in parts]
    ids = np.array([post_id for table in tables for post_id in table["post_id"].to_pylist()], object)
    strata = np.array([(tags or [""])[0] for table in tables for tags in table["tags"].to_pylist()], object)
    labelled = np.diff(gold_matrix(tables, taxonomy).indptr) > 0
    warn_of_unknown(count_unknown(tables, taxonomy), taxonomy)

    def draw(expression: str | None, free: np.ndarray) -> np.ndarray:
        if expression is not None:
            return np.concatenate([matches(table, expression) for table in tables])
        marks = np.zeros(len(ids), bool)
        marks[free] = draw_valid(ids[free].tolist(), strata[free].tolist(), labelled[free])
        return marks

    held = tested = np.zeros(len(ids), bool)
    if valid is not None:
        held = draw(valid, ~tested)
    if with_test:
        tested = draw(test, ~held)
        if test is None:
            tested = tested | draw(None, ~held & ~tested)
    held = draw(None, ~tested) if valid is None else held & ~tested
    sides = {
        "have a tag of the taxonomy and are left to train on": ~held & ~tested,
        f"are held out ({'a tenth' if valid is None else f'where {valid}'})": held,
    }
    if with_test:
        sides[f"to test on ({test or 'a fifth'})"] = tested
    counts = {side: int((labelled & mask).sum()) for side, mask in sides.items()}
    if not all(counts.values()):
        found = ", ".join(f"{number:,} {side}" for side, number in counts.items())
        raise RequestError(
            f"of {len(ids):,} posts {found}; all must be above 0: tags are read from a column tags, or --column tags=NAME"
        )
    ends = np.cumsum([len(table) for table in tables])[:-1]
    return dict(zip(parts, np.split(held | tested, ends), strict=True)), pa.array(ids[tested].tolist(), pa.string())


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
    names = np.array([numbers[group] for group in groups], np.int64)
    order = np.lexsort((hashes, names))
    names = names[order]
    drawn = np.zeros(len(names), bool)
    drawn[order] = rank_in_runs(names) < np.round(np.bincount(names)[names] * VALID_SHARE)
    return drawn


def gold_matrix(tables: Sequence[pa.Table], taxonomy: Taxonomy) -> csr_matrix:
    """Return the posts' tags with their ancestors, float32 0/1 csr_matrix (posts x tags); unknown tags are left out."""
    blocks = [raise_parents(label_matrix(table["tags"], taxonomy), taxonomy) for table in tables]
    return csr_matrix(vstack(blocks)) if blocks else csr_matrix((0, len(taxonomy)), dtype=np.float32)


def hide_author_and_channel(table: pa.Table, share: float = WHISPER_SHARE) -> pa.Table:
    """Return posts of which a share, by a hash of the id, say neither author nor channel."""
    quiet = pa.array([int(blake(post_id), 16) % 100 < 100 * share for post_id in table["post_id"].to_pylist()], pa.bool_())
    for name in ("author", "channel"):
        spoken = pc.if_else(quiet, "", table[name])
        table = table.set_column(table.column_names.index(name), name, spoken)
    return table


def blake(text: str) -> str:
    """Return a hash of a text, 16 hex digits, the same in every process."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class NetworkOptions:
    """Which network is trained, by its name, for how many minutes at most, with further tasks (name: column), and a seed.

    `start` is a folder of `weibotag pretrain`, whose weights the network begins from; `encoder` a language model (a folder,
    or hf:owner/name) that reads the text for the network, `encoder_training` what of it is trained: frozen, full or lora.
    """

    network: str = "concat"
    minutes: float | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    start: Path | None = None
    encoder: str = ""
    encoder_training: str = "frozen"

    def request(self) -> dict[str, object]:
        """Return all that a training depends on, the weights that it begins from by their hashes."""
        files = () if self.start is None else sorted(path for path in self.start.iterdir() if path.is_file())
        return asdict(self) | {"start": {path.name: hash_weights(path) for path in files}}


@dataclass(frozen=True)
class LearningOptions:
    """How learners learn.

    `tune_seconds` is the time for trying hyper-parameters, `threads` those of fastText and networks, `memory` the bytes that
    training xmc may take, `network` what is asked of a network, and `folder` where its training goes on after a kill.
    """

    tune_seconds: float = 120
    threads: int = 1
    memory: float | None = None
    quiet: bool = False
    network: NetworkOptions = field(default_factory=NetworkOptions)
    folder: Path | None = None


def is_short(held: int, trained: int) -> bool:
    """Tell whether so few posts are held out that those to train on must help to choose: see `score_crossed`."""
    return held < FEW_HELD and FEWEST_TO_CROSS <= trained <= MOST_TO_CROSS


@dataclass(frozen=True)
class Lesson:
    """Posts to train on and posts held out, to choose by, and how to learn; `settings` of fastText where they are known.

    `reads_texts`: the vectors of texts may be read beside words.
    """

    trained: Dataset
    held: Dataset
    taxonomy: Taxonomy
    options: LearningOptions
    settings: Settings | None = None
    reads_texts: bool = True

    @property
    def is_short(self) -> bool:
        """Tell whether those to train on must help to choose: see `is_short`."""
        return is_short(len(self.held), len(self.trained))


@dataclass(frozen=True)
class Learnt:
    """What a learner returns: what scores posts, a report for model.json, and fastText's settings where it chose some.

    `crossed` are scores of the posts to train on, each by what learnt from others, where the lesson is short; None where
    that would take too long.
    """

    scorer: Ensemble
    report: Mapping[str, object] = field(default_factory=dict)
    settings: Settings | None = None
    crossed: csr_matrix | None = None


Learner = Callable[[Lesson], Learnt]
