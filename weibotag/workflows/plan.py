"""What tagging would cost and be worth at any budget: steps are timed on a sample; the plan is for `tag --plan`."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag import __version__
from weibotag.core.errors import RequestError
from weibotag.core.files import write_json
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.ingest import ingest
from weibotag.extraction.pipeline_files import choose_pipeline
from weibotag.extraction.queue import PictureQueue
from weibotag.extraction.requests import PlanRequest
from weibotag.extraction.schedule import link, read_links
from weibotag.posts.source import describe_input
from weibotag.posts.supplied_words import add_given
from weibotag.runtime.run_folder import Run
from weibotag.taggers.answering import open_cascade
from weibotag.taggers.cascade.cost_curve import Curve, draw_up
from weibotag.taggers.cascade.policy import Cascade
from weibotag.taggers.cascade.simulation import CascadeSimulation
from weibotag.taggers.cascade.stage_bits import given, translate
from weibotag.training.network_taggers import UNAFFORDABLE, price
from weibotag.workflows.choose_tagger import PLAN_FORMAT, choose_tagger
from weibotag.workflows.picture_words import coder_of
from weibotag.workflows.spend_budget import LAST, PictureIndex

# Posts of the sample without pictures; those with pictures are as many as are asked for.
PLAIN = 1_000


@dataclass(frozen=True)
class Budget:
    """What tagging may take: `amount` seconds, milliseconds a post, or times the run that reads text alone."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read 90s, 30m, 2h, 5ms (a post) or 3x (text alone); raises RequestError for anything else."""
        unit = next((unit for unit in ("ms", "s", "m", "h", "x") if text.endswith(unit)), "")
        try:
            amount = float(text.removesuffix(unit))
        except ValueError:
            amount = -1.0
        if not 0 < amount < float("inf"):
            raise RequestError(
                f"--budget {text!r}: expected a time (90s, 30m, 2h), milliseconds a post (5ms), or times the text (3x)"
            )
        scale = {"m": 60.0, "h": 3600.0}.get(unit, 1.0)
        return cls(amount * scale, unit if unit in ("ms", "x") else "s")

    def seconds(self, posts: int, text_alone: float) -> float:
        """Return the seconds for so many posts, where a run that reads text alone takes `text_alone`."""
        return {"s": self.amount, "ms": self.amount * posts / 1000, "x": self.amount * text_alone}[self.unit]


def plan_tagging(request: PlanRequest) -> dict[str, Any]:
    """Time the steps of a cascade on posts, write the plan to the request's `out` and return it.

    All stages look at the pictures of its `sample` posts (the store keeps what they find), so the plan knows what the looks
    cost here and what they bring these posts, as far as probabilities tell. Without a budget the plan is that of the knee.
    """
    source, sample, quiet = request.source, request.sample, request.quiet
    budget = None if request.budget is None else Budget.parse(request.budget)
    tagger, pipeline = choose_tagger(request.model, None, "cascade", choose_pipeline(request))
    context = open_context(pipeline, quiet=quiet)
    context.sparing = True
    asked = {"command": "plan", "version": __version__, "input": describe_input(source), "sample": sample}
    asked |= {"tagger": tagger.request(), **context.request()}
    with Run.open(Path(f"{request.out}.run"), asked) as run:
        begun = perf_counter()
        parts = ingest(run, source, None, quiet)
        link(run, parts, context.limits, quiet)
        fixed = perf_counter() - begun
        posts = sum(pq.read_metadata(run.path("posts", part)).num_rows for part in parts)
        if not posts:
            raise RequestError("no post to plan for: the input, or what --where leaves of it, has no row that can be used")
        cascade = open_cascade(tagger)
        board = PictureIndex(run, parts, context)
        survey = Survey(run, parts, context, board, sample)
        survey.look()
        tables, gathering = survey.gather(coder_of(tagger, context))
        # Within a budget a millisecond is worth the same wherever it is spent.
        cascade.network_rate = cascade.network_rate if budget is None else 0.0
        cascade.prices |= _price_here(cascade, tables, context)
        outlook = survey.outlook(cascade, tables, posts)
        curve = draw_up(outlook, outlook.expected_f1)
        # Reading, and twice (before looks and after) what is done for each post, come whatever is looked at.
        text_alone = fixed + LAST * posts * (cascade.prices["text"] / 1000)
        fixed += (1 + LAST) * gathering * posts
        plan = _write_down(curve, fixed, text_alone, budget, posts, outlook, cascade)
        plan["loading"] = {name: round(value, 3) for name, value in context.loading.items()}
        plan |= {"model": tagger.digest, "posts_with_pictures": board.count, "sample": len(survey.chosen)}
        run.finish(plan)
    write_json(plan, request.out)
    return plan


class Survey:
    """The posts with pictures that a plan is made from, and what was known of their pictures before."""

    def __init__(self, run: Run, parts: list[str], context: ExtractionContext, board: PictureIndex, sample: int) -> None:
        self.run, self.parts, self.context, self.board = run, parts, context, board
        self.chosen = np.sort(np.random.default_rng(0).permutation(board.count)[:sample])
        self.known = np.full(board.count, (1 << len(board.stages)) - 1, np.int64)
        np.bitwise_and.at(self.known, board.posts, board.looked.bits[board.files])
        self.left = board.count_lacking()

    def look(self) -> None:
        """Let all stages look at the pictures of the sample."""
        own = np.isin(self.board.posts, self.chosen)
        files = []
        ids = self.board.looked.file_ids.to_pylist()
        for place in np.unique(self.board.files[own]).tolist():
            stages = [stage for bit, stage in enumerate(self.board.stages) if self.board.lacking(bit)[place]]
            if stages:
                known = bool(self.board.looked.decoded[place])
                files.append({"path": self.board.paths[place], "file_id": ids[place], "stages": stages, "known": known})
        self.context.store.prepare()
        # Timed with company: as many at a time as the run will have.
        with PictureQueue(self.run, self.context) as lookers:
            lookers.look(files, max(1, min(8, len(files) // (2 * max(1, self.context.workers)))), lambda: np.inf)

    def gather(self, coder: Any) -> tuple[pa.Table, float]:
        """Return posts of the sample, those with pictures first, and the seconds that gathering one of these took."""
        tables, plain = [], []
        begun = perf_counter()
        for part in self.parts:
            own = self.board.places[part]
            wanted = np.flatnonzero(np.isin(own, self.chosen))
            if len(wanted):
                tables.append(self.board.gather(part, wanted, coder))
        spent = (perf_counter() - begun) / max(1, len(self.chosen))
        for part in self.parts:
            posts = pq.read_table(self.run.path("posts", part))
            linked = pc.is_in(posts["post_id"], pc.unique(read_links(self.run, part)["post_id"]))
            plain.append(posts.filter(pc.invert(linked)).slice(0, max(1, PLAIN // len(self.parts))))
        whole = pa.concat_tables([*tables, *plain], promote_options="default")
        return add_given(whole, self.context.pipeline.words), spent

    def outlook(self, cascade: Cascade, table: pa.Table, posts: int) -> CascadeSimulation:
        """Return what the cascade expects of all posts, for which those of the sample stand."""
        count = len(self.chosen)
        pictured = np.arange(len(table)) < count
        known, left = given(table, cascade.stages), np.zeros((len(table), len(cascade.stages)))
        known[:count] |= translate(self.known[self.chosen], self.board.stages, cascade.stages)
        for place, stage in enumerate(self.board.stages):
            left[:count, cascade.stages.index(stage)] = self.left[self.chosen][:, place]
        # What only words that posts bring along could say, nothing here can look for.
        left[:, [stage not in self.board.stages for stage in cascade.stages]] = 1
        seen = pictured | (known > 0)
        plain = len(table) - count
        shares = self.board.count / max(1, count), (posts - self.board.count) / max(1, plain)
        return CascadeSimulation(cascade, table, seen, known, left, np.where(pictured, shares[0], shares[1]))


def _price_here(cascade: Cascade, table: pa.Table, context: ExtractionContext) -> dict[str, float]:
    """Return the prices measured here; of stages that had nothing to look at those that the model knows."""
    measured = price((cascade.text, cascade.reader, cascade.network), [table], context)
    return {name: value for name, value in measured.items() if name not in context.fingerprints or context.frames.get(name)}


def _write_down(
    curve: Curve,
    fixed: float,
    text_alone: float,
    budget: Budget | None,
    posts: int,
    outlook: CascadeSimulation,
    cascade: Cascade,
) -> dict[str, Any]:
    """Return the plan as it is written: seconds are of whole runs."""
    given = None if budget is None else budget.seconds(posts, text_alone)
    chosen = curve.knee if given is None else curve.reach(given - fixed)
    prices = np.array([cascade.prices[name] for name in cascade.stages])
    looks = outlook.left[:, prices < UNAFFORDABLE] @ prices[prices < UNAFFORDABLE]
    everything = fixed + float(outlook.weights @ looks) / 1000
    return {
        "format": PLAN_FORMAT,
        "rate": float(curve.rates[chosen]),
        "network_rate": cascade.network_rate,
        "floor": float(min(curve.rates[curve.best], curve.rates[chosen])),
        "prices": {name: round(value, 5) for name, value in cascade.prices.items()},
        "budget": given,
        "chosen": int(chosen),
        "expected": _expect(curve, fixed, given, chosen),
        "knee": curve.knee,
        "posts": posts,
        "text_alone_seconds": round(text_alone, 3),
        "everything_seconds": round(everything, 3),
        "text_alone_quality": round(outlook.expected_f1(outlook.text_alone()), 4),
        "everything_quality": round(outlook.expected_f1(outlook.everything()), 4),
        "curve": [
            {"rate": float(rate), "seconds": round(fixed + seconds, 3), "quality": round(quality, 4)}
            for rate, seconds, quality in zip(curve.rates, curve.seconds, curve.quality, strict=True)
        ],
    }


def _expect(curve: Curve, fixed: float, given: float | None, chosen: int) -> dict[str, float]:
    """Return the seconds that the run will take and the quality to be expected: a wave ends where the budget does."""
    seconds = float(curve.seconds[chosen]) if given is None else min(max(0.0, given - fixed), float(curve.seconds[chosen]))
    quality = float(np.interp(seconds, curve.seconds, curve.quality))
    return {"seconds": round(fixed + seconds, 3), "quality": round(quality, 4)}
