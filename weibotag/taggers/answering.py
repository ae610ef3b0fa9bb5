"""Posts to tags: the tagger that was asked for, its thresholds, keywords and evidence."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import rows_of
from weibotag.core.schema import TAG, arrow_schema
from weibotag.features.visual_codes import Codebook
from weibotag.features.vocabulary import Vocabulary, add_attended, find_keywords
from weibotag.posts.passing import pass_through
from weibotag.taggers.cascade.policy import Cascade, choose_step, stages_of, translate
from weibotag.taggers.model_folder import ABOUT, CASCADE, FUSED, RULES, Model, ModelReader, load_model, read_about
from weibotag.taggers.rules import rules_tagger
from weibotag.taggers.tagger import Tagger
from weibotag.taxonomy.tree import Taxonomy
from weibotag.taxonomy.tree import load as load_taxonomy

# The mark of a route of posts for which time ran out.
LATE = "+late"


@dataclass(frozen=True)
class BudgetPlan:
    """What a cascade may spend, and on what, as `weibotag plan` found it; all of it unset without a plan.

    `rate` and `network_rate` are the least gains per millisecond for which a look is taken and the network asked (None: the
    model's own), `floor` the rate below which a look is not worth it whatever time is left. `prices` are milliseconds of
    steps, instead of the model's own; `loading` seconds for loading the models of stages; `budget` seconds of the whole run,
    None for as long as looks pay.
    """

    rate: float | None = None
    network_rate: float | None = None
    floor: float = 0.0
    prices: Mapping[str, float] = field(default_factory=dict)
    loading: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = None


@dataclass(frozen=True)
class TaggerRef:
    """The tagger that answers: `route` of the model, or of the taxonomy, at `place`, whose digest is `digest`.

    `digest` is that of a model's model.json, or a taxonomy's own. `stages` are those whose bits the column `looked` has, in
    order. `late` tells that time ran out before all was looked at that should have been. `meaning`: rules go by what words
    mean, too, and `store` is the folder that keeps what tags mean.
    """

    route: str
    place: str
    digest: str
    stages: tuple[str, ...] = ()
    plan: BudgetPlan = field(default_factory=BudgetPlan)
    late: bool = False
    meaning: bool = False
    store: str = ""

    def request(self) -> dict[str, object]:
        """Return, for JSON, what an answer depends on: a run of another tagger or plan is another run."""
        asked = {"route": self.route, "place": self.place, "digest": self.digest, "plan": asdict(self.plan)}
        return asked | {"meaning": self.meaning}


def open_model(tagger: TaggerRef) -> Model:
    """Return what a route of a model needs; it is kept for the next call until its model.json changes."""
    return _read_model(tagger.place, tagger.digest, tagger.route)


@lru_cache(maxsize=2)
def _read_model(place: str, digest: str, route: str) -> Model:
    return load_model(Path(place), route)


def open_taxonomy(tagger: TaggerRef) -> Taxonomy:
    """Return the taxonomy of a model's folder, or that of a file."""
    return _read_taxonomy(tagger.place, tagger.digest)


@lru_cache(maxsize=1)
def _read_taxonomy(place: str, digest: str) -> Taxonomy:
    folder = Path(place)
    return ModelReader(folder, read_about(folder)).taxonomy if (folder / ABOUT).is_file() else load_taxonomy(folder)


def open_codebook(tagger: TaggerRef) -> Codebook | None:
    """Return the codebook that the tagger's visual codes are by; None for rules, and where pictures were too few for one."""
    return None if tagger.route == "rules" else open_model(tagger).codebook


def reads_vectors(tagger: TaggerRef) -> bool:
    """Tell whether what answers reads the vectors of pictures, and not their words alone."""
    if tagger.route in (RULES, FUSED, CASCADE):
        return tagger.route != RULES
    return any(one.reads_pictures for one in open_model(tagger).tagger(tagger.route).scorer.blocks)


class TaggedPart(TypedDict):
    """What a part came to: posts, those with tags, tags, posts with errors, posts by route."""

    rows: int
    tagged: int
    tags: int
    with_errors: int
    routes: dict[str, int]


# What answers for a table of posts: scores that reach their thresholds (posts x tags), and the route of each post.
Answerer = Callable[[pa.Table], tuple[csr_matrix, list[str]]]


def open_words(tagger: TaggerRef) -> tuple[Vocabulary, Taxonomy]:
    """Return the vocabulary and the taxonomy of a route."""
    return _read_words(tagger.route, tagger.place, tagger.digest)


@lru_cache(maxsize=1)
def _read_words(route: str, place: str, digest: str) -> tuple[Vocabulary, Taxonomy]:
    if not (Path(place) / ABOUT).is_file():
        taxonomy = _read_taxonomy(place, digest)
        return Vocabulary(taxonomy), taxonomy
    model = _read_model(place, digest, route)
    return Vocabulary(model.taxonomy, model.keywords), model.taxonomy


def open_answerer(tagger: TaggerRef) -> Answerer:
    """Return what answers by a route."""
    if tagger.route == RULES:
        return _answer_alike(rules_tagger(open_taxonomy(tagger), Path(tagger.store) if tagger.meaning else None), tagger)
    if tagger.route == CASCADE:
        return partial(_answer_by_cascade, open_cascade(tagger), tagger)
    return _answer_alike(open_model(tagger).tagger(tagger.route), tagger)


def open_cascade(tagger: TaggerRef) -> Cascade:
    """Return the cascade of a model, at the rate and the prices of a plan where there is one."""
    kept = open_model(tagger).cascade
    assert kept is not None
    # The model stays as it is for the next run of this process.
    cascade, plan = copy(kept), tagger.plan
    cascade.rate = kept.rate if plan.rate is None else plan.rate
    cascade.network_rate = kept.network_rate if plan.network_rate is None else plan.network_rate
    cascade.prices = kept.prices | dict(plan.prices)
    return cascade


def _answer_alike(own: Tagger, tagger: TaggerRef) -> Answerer:
    """Return the answerer of a tagger that has one answer for all posts."""

    def answer(table: pa.Table) -> tuple[csr_matrix, list[str]]:
        return own.decide(table), [tagger.route + LATE * late for late in _is_late(table, tagger)]

    return answer


def _is_late(table: pa.Table, tagger: TaggerRef) -> list[bool]:
    """Return, per post, whether time ran out before its pictures were looked at."""
    if not tagger.late or "looked" not in table.column_names:
        return [False] * len(table)
    bits, has = table["looked"].to_numpy(), table["pictured"].to_numpy()
    return list((has & (bits != (1 << len(tagger.stages)) - 1)).tolist())


def _answer_by_cascade(cascade: Cascade, tagger: TaggerRef, table: pa.Table) -> tuple[csr_matrix, list[str]]:
    """Answer by a cascade; a route names the tagger and the stages that had looked."""
    bits, has = np.zeros(len(table), np.int64), np.zeros(len(table), bool)
    if "looked" in table.column_names:
        bits, has = translate(table["looked"].to_numpy(), tagger.stages, cascade.stages), table["pictured"].to_numpy()
    answer = cascade.answer(table, bits)
    late = [False] * len(table)
    if tagger.late:
        prices = np.array([cascade.prices[stage] for stage in cascade.stages])
        gains = answer.gains[:, : len(prices)]
        late = (has & (choose_step(gains, np.ones_like(gains), prices, answer.bits, cascade.rate).stage >= 0)).tolist()
    names = {own: "".join(f"+{stage}" for stage in stages_of(own, cascade.steps)) for own in set(answer.bits.tolist())}
    routes = [
        cascade.name(own, fused) + names[own] + LATE * one
        for own, fused, one in zip(answer.bits.tolist(), answer.fused.tolist(), late, strict=True)
    ]
    return answer.chosen, routes


def tag_posts(tables: Iterable[pa.Table], tagger: TaggerRef) -> tuple[pa.Table, TaggedPart]:
    """Return the tags table of a part (schema "tags", then the columns that pass through) and its receipt.

    `tables` are posts with or without wordings; for `tagger` see `open_answerer`.
    """
    vocabulary, taxonomy = open_words(tagger)
    answerer = open_answerer(tagger)
    answer = pa.concat_tables([_tag_table(table, answerer, vocabulary, taxonomy, tagger) for table in tables])
    lengths = pc.list_value_length(answer["tags"])
    receipt: TaggedPart = {
        "rows": len(answer),
        "tagged": pc.sum(pc.greater(lengths, 0)).as_py() or 0,
        "tags": pc.sum(lengths).as_py() or 0,
        "with_errors": len(answer) - answer["error"].null_count,
        "routes": dict(Counter(answer["route"].to_pylist())),
    }
    return answer, receipt


def _tag_table(
    table: pa.Table, answerer: Answerer, vocabulary: Vocabulary, taxonomy: Taxonomy, tagger: TaggerRef
) -> pa.Table:
    chosen, routes = answerer(table)
    mentions = vocabulary.find(table)
    errors = table["wordings_error"] if "wordings_error" in table.column_names else pa.nulls(len(table), pa.string())
    columns = {
        "post_id": table["post_id"],
        "tags": list_tags(chosen, taxonomy),
        "keywords": find_keywords(table, vocabulary, mentions),
        "route": pa.array(routes, pa.string()),
        "evidence": _name_attended(vocabulary.evidence(table, mentions, chosen), table, chosen, routes, tagger),
        "error": errors,
    }
    answer = pa.table(columns, schema=arrow_schema("tags"))
    for name, values in _answer_tasks(table, tagger).items():
        answer = answer.append_column(name, values)
    return pass_through(answer, table)


def _name_attended(
    evidence: pa.Array, table: pa.Table, chosen: csr_matrix, routes: Sequence[str], tagger: TaggerRef
) -> pa.Array:
    """Return the evidence with what the network attended to, of posts that a network with attention answered."""
    rows = np.flatnonzero([route.startswith(FUSED) for route in routes] & (np.diff(chosen.indptr) > 0))
    if "wordings" not in table.column_names or not len(rows):
        return evidence
    fused = open_model(tagger).network
    if fused is None or not fused.has_attention:
        return evidence
    some = table.take(pa.array(rows))
    added = add_attended(evidence.take(pa.array(rows)), some, fused.attention(some), chosen[rows], fused.taxonomy)
    places = np.arange(len(table))
    places[rows] = len(table) + np.arange(len(rows))
    return pa.concat_arrays([evidence, added]).take(pa.array(places))


def _answer_tasks(table: pa.Table, tagger: TaggerRef) -> dict[str, pa.Array]:
    """Return what the network says of its further tasks: columns task_NAME (class) and task_NAME_score (probability)."""
    fused = open_model(tagger).network if tagger.route in (FUSED, CASCADE) else None
    columns: dict[str, pa.Array] = {}
    for name, (classes, scores) in (fused.answers(table) if fused is not None else {}).items():
        columns |= {f"task_{name}": pa.array(classes, pa.string()), f"task_{name}_score": pa.array(scores, pa.float32())}
    return columns


def list_tags(chosen: csr_matrix, taxonomy: Taxonomy) -> pa.Array:
    """Return list<TAG> per post: highest score first, of equal ones the parent first, then in file order."""
    posts = rows_of(chosen.indptr)
    order = np.lexsort((chosen.indices, taxonomy.depth[chosen.indices], -chosen.data, posts))
    ids = taxonomy.id_array.take(pa.array(chosen.indices[order]))
    structs = pa.StructArray.from_arrays([ids, pa.array(chosen.data[order])], fields=list(TAG))
    return pa.ListArray.from_arrays(pa.array(chosen.indptr, pa.int32()), structs)
