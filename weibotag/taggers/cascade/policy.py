"""The cascade: the cheapest tagger first; pictures are looked at, and the network asked, where that pays.

Training, plans and runs ask `choose_step` which stage looks next. A set of stages is a number of bits.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack
from typing_extensions import TypedDict

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.files import write_json
from weibotag.core.own_files import Origin, TensorType, read_json, read_tensors, write_tensors
from weibotag.scoring.closure import blend
from weibotag.scoring.decision import CALIBRATED, Decision
from weibotag.taggers.cascade.gains import FOREST, Forest, count_features, describe
from weibotag.taggers.network import NetworkScorer
from weibotag.taggers.tagger import Ensemble, Tagger
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.registry import names
from weibotag.vision.stage import stage_class

ABOUT, ARRAYS = "cascade.json", "cascade.safetensors"
ORIGIN = Origin("a cascade for the tags of the taxonomy beside it", "train again")
# Who answers: for a post nobody has looked at, for one whose pictures are known, and the network.
TEXT, FAST, FUSED = "text", "fast", "fused"
# The step that reads what texts mean.
ENCODE = "encode"
# A step that costs nothing is reckoned with so many milliseconds.
LEAST_MILLISECONDS = 1e-6
# Of a struct in the column `vectors`, what does not come from looking.
PLAIN = ("media_id", "width", "height")


class Taggers(NamedTuple):
    """Who reads text alone, who reads what pictures say as well, and the network.

    `plain` are the first two as they answer before the vectors of texts are read; None where nobody but the network reads
    these.
    """

    text: Tagger
    reader: Ensemble
    network: NetworkScorer
    plain: tuple[Tagger, Tagger] | None = None


class NextStep(NamedTuple):
    """For each post (posts,): the number of the stage that looks next (-1: none), its gain per millisecond (-inf: none), and
    its cost in milliseconds.
    """

    stage: np.ndarray
    ratio: np.ndarray
    cost: np.ndarray


def choose_step(gains: np.ndarray, left: np.ndarray, prices: np.ndarray, bits: np.ndarray, rate: float) -> NextStep:
    """Return the stage that brings most per millisecond for each post, none where none brings `rate` and more than 0.

    `gains` (posts, stages) are what stages would bring, `left` (posts, stages) the pictures that they have not seen,
    `prices` (stages,) milliseconds a picture; stages of `bits` (posts,) have looked.
    """
    costs = price_looks(left, prices)
    if not gains.shape[1]:
        nothing = np.zeros(len(gains))
        return NextStep(np.full(len(gains), -1), nothing - np.inf, nothing)
    taken = (bits[:, None] >> np.arange(gains.shape[1])) & 1
    ratios = np.where(taken | (gains <= 0), -np.inf, gains / costs)
    best = ratios.argmax(axis=1)
    every = np.arange(len(gains))
    high = ratios[every, best]
    worth = (high > 0) & (high >= rate)
    return NextStep(np.where(worth, best, -1), np.where(worth, high, -np.inf), costs[every, best])


def price_looks(left: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Return the milliseconds (posts, stages) that looking at what is left takes."""
    return np.asarray(np.maximum(left * prices, LEAST_MILLISECONDS))


class CascadeFigures(TypedDict, total=False):
    """Micro-F1 of text alone, at the knee and of everything; the knee's share of the cost of everything."""

    text: float
    knee: float
    everything: float
    cost_at_knee: float


class CascadeFile(TypedDict):
    """cascade.json: see `Cascade`."""

    stages: list[str]
    share: float
    worth: float
    prices: dict[str, float]
    rate: float
    network_rate: float
    figures: CascadeFigures


@dataclass(frozen=True)
class Answer:
    """Scores and those of them that reach their thresholds, csr_matrix (posts x tags); `bits` (posts,): steps taken;
    `fused` (posts,): whether the network was asked; `gains` float32 (posts, steps + 1): what each step, and the network,
    would bring yet.
    """

    scores: csr_matrix
    chosen: csr_matrix
    bits: np.ndarray
    fused: np.ndarray
    gains: np.ndarray

    def keep(self, mask: np.ndarray) -> "Answer":
        """Return the answers of some posts."""
        return Answer(*(part[mask] for part in (self.scores, self.chosen, self.bits, self.fused, self.gains)))


class Cascade:
    """The taggers of a model, how each answers at each state, and what a further step would bring.

    `stages` are those that look at pictures, `steps` these and, where cheap taggers read the vectors of texts, the
    reading of these; a set of steps is a number of bits. The network is asked where texts have been read. `prices` are
    milliseconds: of a stage per picture, of the others per post. `rate` is the least gain per millisecond for which a
    step is taken, in tags that are right (see `gains.benefit`); where nothing is left to look at the network is asked
    for `network_rate` at least, because there it is all that costs. `worth` is the micro-F1 that gains are measured
    with.
    """

    def __init__(self, taxonomy: Taxonomy, taggers: Taggers, stages: Sequence[str], share: float, worth: float) -> None:
        self.taxonomy = taxonomy
        self.text, self.reader, self.network, self.plain = self.taggers = taggers
        self.stages = tuple(stages)
        self.steps = (*stages, *([ENCODE] if self.plain else []))
        self.kinds = tuple(kind for stage in stages for kind in stage_class(stage).kinds)
        self.share, self.worth = share, worth
        self.states: dict[tuple[str, int], Decision] = {}
        self.forests: dict[tuple[str, str], Forest] = {}
        self.prices: dict[str, float] = {}
        self.rate = self.network_rate = 0.0
        self.figures: CascadeFigures = {}

    @property
    def everything(self) -> int:
        """Return the bits of all stages."""
        return (1 << len(self.stages)) - 1

    @property
    def reading(self) -> int:
        """Return the bit of the step that reads texts, 0 where there is none."""
        return 1 << len(self.stages) if self.plain else 0

    def has_read(self, bits: int) -> bool:
        """Tell whether nothing of texts is left to read after these steps."""
        return bits & self.reading == self.reading

    def name(self, bits: int, fused: bool) -> str:
        """Return what a route is called."""
        if fused or not bits & self.everything:
            return FUSED if fused else TEXT
        return self._reader(bits).name

    def cheap(self, bits: int) -> str:
        """Return who answers first for posts after these steps."""
        return FAST if bits & self.everything else TEXT

    def raw(self, tagger: str, bits: int, table: pa.Table) -> csr_matrix:
        """Return a tagger's raw scores of posts, float32 csr_matrix; the network's own are mixed with the cheap one's."""
        if tagger == TEXT:
            return (self.text if self.plain is None or self.has_read(bits) else self.plain[0]).scores(table)
        if tagger == FAST:
            return self._reader(bits).raw_scores(table)
        return self.network.raw_scores(table)

    def _reader(self, bits: int) -> Ensemble:
        return self.reader if self.plain is None or self.has_read(bits) else self.plain[1].scorer

    def answer(self, table: pa.Table, bits: np.ndarray, rate: float | None = None) -> Answer:
        """Answer for posts whose pictures the stages of `bits` (posts,) have looked at, 0 for posts without pictures.

        Texts are read, and then the network is asked, where that brings at least `rate` per millisecond, for all posts where
        that is negative. Stages whose words posts bring along count as having looked.
        """
        bits = bits | given(table, self.stages)
        rate = self.rate if rate is None else rate
        parts = []
        for own in np.unique(bits).tolist():
            parts += self._answer_alike(table, np.flatnonzero(bits == own), own, rate)
        if not parts:
            empty = csr_matrix((0, len(self.taxonomy)), dtype=np.float32)
            return Answer(empty, empty, bits, np.zeros(0, bool), np.zeros((0, len(self.steps) + 1), np.float32))
        answers, rows = zip(*parts, strict=True)
        order = np.argsort(np.concatenate(rows), kind="stable")
        return Answer(
            csr_matrix(vstack([one.scores for one in answers])),
            csr_matrix(vstack([one.chosen for one in answers])),
            np.concatenate([one.bits for one in answers]),
            np.concatenate([one.fused for one in answers]),
            np.concatenate([one.gains for one in answers]),
        ).keep(order)

    def _answer_alike(self, table: pa.Table, rows: np.ndarray, bits: int, rate: float) -> list[tuple[Answer, np.ndarray]]:
        """Answer for the posts `rows` of a table, of one state; return parts, each with its rows."""
        name, some = self.cheap(bits), table.take(pa.array(rows))
        raw = self.raw(name, bits, some)
        answer = self._settle_and_describe(name, bits, raw, some)
        if self.has_read(bits):
            further = self.ask(answer.gains, rate, (count_files(some) == 0) | (bits & self.everything == self.everything))
        else:
            further = answer.gains[:, len(self.stages)] >= rate * self.prices[ENCODE]
        parts = [(answer.keep(~further), rows[~further])]
        if further.any() and self.has_read(bits):
            asked = some.filter(pa.array(further))
            mixed = blend(self.raw(FUSED, bits, asked), csr_matrix(raw[further]), self.share)
            parts.append((self._settle_and_describe(FUSED, bits, mixed, asked), rows[further]))
        elif further.any():
            parts += self._answer_alike(table, rows[further], bits | self.reading, rate)
        return parts

    def _settle_and_describe(self, tagger: str, bits: int, raw: csr_matrix, table: pa.Table) -> Answer:
        """Return what a tagger answers at a state."""
        scores, chosen = self.states[tagger, bits].settle(raw)
        features = describe(scores, chosen, table, self.worth, self.taxonomy, self.kinds)
        gains = self._predict_gains(tagger, features, bits)
        return Answer(scores, chosen, np.full(len(table), bits), np.full(len(table), tagger == FUSED), gains)

    def ask(self, gains: np.ndarray, rate: float, complete: np.ndarray) -> np.ndarray:
        """Return for which posts, by what the steps would bring them, the network is asked at a rate.

        `complete` (posts,) tells where nothing is left to look at.
        """
        rates = np.where(complete & (rate >= 0), max(rate, self.network_rate), rate)
        return np.asarray(gains[:, -1] >= rates * self.prices[FUSED])

    def _predict_gains(self, tagger: str, features: np.ndarray, bits: int) -> np.ndarray:
        """Return what each step, and the network, would bring posts that a tagger has answered, float32."""
        gains = np.zeros((len(features), len(self.steps) + 1), np.float32)
        features = add_bits(features, bits, len(self.steps))
        for place, step in enumerate((*self.steps, FUSED)):
            if step != tagger and not bits >> place & 1 and (step != FUSED or self.has_read(bits)):
                gains[:, place] = self.forests[tagger, step].predict(features)
        return gains

    def list_states(self, seen: bool) -> list[tuple[str, int]]:
        """Return who answers after which steps; `seen`: also after looking at pictures."""
        sets = [bits for bits in range(1 << len(self.steps)) if seen or not bits & self.everything]
        asked = [(FUSED, bits) for bits in sets if self.has_read(bits)]
        return [*((self.cheap(bits), bits) for bits in sets), *asked]

    def save(self, folder: Path) -> None:
        """Write cascade.json and cascade.safetensors; the taggers are the model's own."""
        arrays = {
            f"state {tagger} {bits} {name}": array
            for (tagger, bits), state in self.states.items()
            for name, array in state.arrays().items()
        }
        for (tagger, step), forest in self.forests.items():
            arrays |= {f"gain {tagger} {step} {name}": array for name, array in vars(forest).items()}
        write_tensors(folder / ARRAYS, arrays)
        about = {
            name: getattr(self, name) for name in ("stages", "share", "worth", "prices", "rate", "network_rate", "figures")
        }
        write_json(about, folder / ABOUT)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy, taggers: Taggers) -> "Cascade":
        """Read what `save` wrote; raises OwnFileError for anything else, and for another taxonomy."""
        path = folder / ABOUT
        about = read_json(path, CascadeFile, ORIGIN)
        stages = about["stages"]
        sound = set(stages) <= set(names("stage")) and len(set(stages)) == len(stages) and 0 <= about["share"] <= 1
        ORIGIN.need(path, sound, f"found stages {', '.join(stages)}, share {about['share']}")
        cascade, prices = cls(taxonomy, taggers, stages, about["share"], about["worth"]), about["prices"]
        priced = prices.keys() >= {*cascade.steps, TEXT, FAST, FUSED} and min(prices.values()) >= 0
        ORIGIN.need(path, priced, f"found prices of {', '.join(prices)}")
        cascade.prices, cascade.figures = prices, about["figures"]
        cascade.rate, cascade.network_rate = about["rate"], about["network_rate"]
        cascade._read_arrays(folder / ARRAYS)
        return cascade

    def _read_arrays(self, path: Path) -> None:
        """Read states, those of looked at pictures where training saw any, and forests."""
        steps = [(tagger, step) for tagger in (TEXT, FAST, FUSED) for step in (*self.steps, FUSED)]

        def list_states(named: Collection[str]) -> list[tuple[str, int]]:
            return self.list_states(f"state {FUSED} {self.everything | self.reading} slope" in named)

        def list_types(named: Collection[str]) -> dict[str, TensorType]:
            types: dict[str, TensorType] = {
                f"state {tagger} {bits} {name}": kind
                for tagger, bits in list_states(named)
                for name, kind in CALIBRATED.items()
            }
            for tagger, step in steps:
                own = f"gain {tagger} {step} "
                types |= {own + name: (kind, own + size) for name, (kind, size) in FOREST.items()}
            return types

        arrays = read_tensors(path, list_types, ORIGIN, {"tags": len(self.taxonomy)})
        for tagger, bits in list_states(arrays):
            own = {name: arrays[f"state {tagger} {bits} {name}"] for name in CALIBRATED}
            self.states[tagger, bits] = Decision.of_arrays(own, self.taxonomy)
        width = count_features(self.taxonomy, self.kinds, len(self.steps))
        for tagger, step in steps:
            forest = self.forests[tagger, step] = Forest(**{name: arrays[f"gain {tagger} {step} {name}"] for name in FOREST})
            ORIGIN.need(path, forest.fits(width), f"found a forest {tagger} {step} that points outside")


def add_bits(features: np.ndarray, bits: int, steps: int) -> np.ndarray:
    """Return features (posts, features) with a column for each step: whether it was taken."""
    own = np.array([bits >> place & 1 for place in range(steps)], np.float32)
    return np.hstack([features, np.broadcast_to(own, (len(features), steps))])


def count_files(table: pa.Table) -> np.ndarray:
    """Return how many pictures and clips each post names, int64 (posts,)."""
    counts = [pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy() for name in ("images", "videos")]
    return np.asarray(np.sum(counts, axis=0, dtype=np.int64))


def limit(table: pa.Table, stages: Collection[str]) -> pa.Table:
    """Return a table of posts whose wordings and vectors are those of `stages` alone; absent columns stay absent."""
    if "wordings" in table.column_names:
        kinds = [kind for stage in stages for kind in stage_class(stage).kinds]
        table = _put(table, "wordings", _keep_kinds(table["wordings"].combine_chunks(), kinds))
    if "vectors" in table.column_names and "embed" not in stages:
        table = _put(table, "vectors", _blank(table["vectors"].combine_chunks()))
    return table


def given(table: pa.Table, stages: Sequence[str]) -> np.ndarray:
    """Return, per post, the stages that its own words stand for, as bits: words without a picture were brought along."""
    bits = np.zeros(len(table), np.int64)
    if "wordings" not in table.column_names:
        return bits
    offsets, values = list_parts(table["wordings"].combine_chunks())
    own = pc.is_null(values.field("media_id")).to_numpy(zero_copy_only=False)
    if not own.any():
        return bits
    rows = rows_of(offsets)
    for place, stage in enumerate(stages):
        kinds = pc.is_in(values.field("kind"), pa.array(stage_class(stage).kinds, pa.string())).to_numpy(
            zero_copy_only=False
        )
        bits[rows[own & kinds]] |= 1 << place
    return bits


def number_of(stages: Collection[str], order: Sequence[str]) -> int:
    """Return the stages as bits, the first of `order` the lowest."""
    return sum(1 << place for place, name in enumerate(order) if name in stages)


def stages_of(bits: int, order: Sequence[str]) -> tuple[str, ...]:
    """Return the stages that `number_of` gave these bits."""
    return tuple(name for place, name in enumerate(order) if bits >> place & 1)


def _put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _keep_kinds(wordings: pa.ListArray, kinds: Sequence[str]) -> pa.ListArray:
    offsets, values = list_parts(wordings)
    kept = pc.is_in(values.field("kind"), pa.array(kinds, pa.string()))
    ends = np.concatenate([[0], np.cumsum(kept.to_numpy(zero_copy_only=False))])[offsets]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values.filter(kept))


def _blank(vectors: pa.ListArray) -> pa.ListArray:
    offsets, values = list_parts(vectors)
    fields = list(values.type)
    columns = [values.field(field.name) if field.name in PLAIN else pa.nulls(len(values), field.type) for field in fields]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=fields))


def translate(bits: np.ndarray, old: Sequence[str], new: Sequence[str]) -> np.ndarray:
    """Return bits that were numbered by one order of stages as those of another; stages that it lacks are dropped."""
    table = np.array([number_of(stages_of(value, old), new) for value in range(1 << len(old))], np.int64)
    return np.asarray(table[bits])
