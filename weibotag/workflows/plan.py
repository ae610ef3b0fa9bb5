"""What tagging would cost and be worth at any budget: steps are timed on a sample; the plan is for `tag --plan`."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from weibotag.core import __version__
from weibotag.core.errors import RequestError
from weibotag.core.files import write_json
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.ingest import count_posts, ingest, link, read_links, read_part_posts
from weibotag.extraction.pipeline_files import choose_pipeline
from weibotag.extraction.post_table import open_vector_words
from weibotag.extraction.requests import SECONDS, PlanRequest, split_amount
from weibotag.extraction.schedule import open_queues
from weibotag.posts.source import describe_input
from weibotag.posts.supplied_words import add_given
from weibotag.runtime.run_folder import Run
from weibotag.taggers.answering import open_cascade, open_codebook, open_taxonomy
from weibotag.taggers.cascade.policy import Cascade
from weibotag.taggers.cascade.simulation import CascadeSimulation, Curve, trace_curve
from weibotag.training.cascade_tagger import UNAFFORDABLE, price_taggers
from weibotag.workflows.choose_tagger import PLAN_FORMAT, PlanLimits, choose_tagger
from weibotag.workflows.picture_index import PictureIndex
from weibotag.workflows.spend_budget import LAST

# Posts of the sample without pictures; those with pictures are as many as are asked for.
PLAIN = 1_000
# Milliseconds a post, times of the run that reads text alone, and times.
UNITS = {"ms": 1.0, "x": 1.0} | SECONDS


@dataclass(frozen=True)
class Budget:
    """What tagging may take: `amount` seconds, milliseconds a post, or times the run that reads text alone."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read 90s, 30m, 2h, 5ms (a post) or 3x (text alone); raises RequestError for anything else."""
        amount, unit = split_amount(text, UNITS)
        if amount <= 0:
            raise RequestError(
                f"--budget {text!r}: expected a time (90s, 30m, 2h), milliseconds a post (5ms), or times the text (3x)"
            )
        return cls(amount, unit if unit in ("ms", "x") else "s")

    def seconds(self, posts: int, text_alone: float) -> float:
        """Return the seconds for so many posts, where a run that reads text alone takes `text_alone`."""
        return {"s": self.amount, "ms": self.amount * posts / 1000, "x": self.amount * text_alone}[self.unit]


class Point(TypedDict):
    """Seconds of a whole run, and the micro-F1 that probabilities promise."""

    seconds: float
    quality: float


class CurvePoint(Point):
    """What a rate leads to."""

    rate: float


class Plan(PlanLimits):
    """What a plan file holds: what `tag` takes from it (see `BudgetPlan`), and the curve that it was chosen from."""

    chosen: int
    expected: Point
    knee: int
    posts: int
    text_alone_seconds: float
    everything_seconds: float
    text_alone_quality: float
    everything_quality: float
    curve: list[CurvePoint]
    posts_with_pictures: int
    sample: int


def plan_tagging(request: PlanRequest) -> Plan:
    """Time the steps of a cascade on posts, write the plan to the request's `out` and return it.

    All stages look at the pictures of its `sample` posts (the store keeps what they find), so the plan knows what the looks
    cost here and what they bring these posts, as far as probabilities tell. Without a budget the plan is that of the knee.
    """
    source, sample, quiet = request.source, request.sample, request.quiet
    budget = None if request.budget is None else Budget.parse(request.budget)
    tagger, pipeline = choose_tagger(request.model, None, "cascade", choose_pipeline(request))
    context = open_context(pipeline, quiet=quiet, partial=True)
    asked = {"command": "plan", "version": __version__, "input": describe_input(source), "sample": sample}
    asked |= {"tagger": tagger.request(), **context.request()}
    with Run.open(Path(f"{request.out}.run"), asked) as run:
        begun = perf_counter()
        parts = ingest(run, source, None, quiet)
        link(run, parts, context)
        fixed = perf_counter() - begun
        posts = count_posts(run, parts)
        cascade = open_cascade(tagger)
        words = open_vector_words(open_taxonomy(tagger), open_codebook(tagger), context)
        survey = Survey(run, context, PictureIndex(run, parts, context, words), sample)
        survey.look()
        tables, reading = survey.read()
        # Within a budget a millisecond is worth the same wherever it is spent.
        cascade.network_rate = cascade.network_rate if budget is None else 0.0
        cascade.prices |= _price_here(cascade, tables, context)
        simulation = survey.simulate(cascade, tables, posts)
        # Reading, and twice (before looks and after) what is done for each post, come whatever is looked at.
        text_alone = fixed + LAST * posts * (cascade.prices["text"] / 1000)
        times = Times(posts, fixed + (1 + LAST) * reading * posts, text_alone, budget)
        plan = times.plan(trace_curve(simulation, simulation.expected_f1), simulation, survey, tagger.digest)
        run.finish(plan)
    write_json(plan, request.out)
    return plan


class Survey:
    """The posts with pictures that a plan is made from, and what was known of all posts' pictures before."""

    def __init__(self, run: Run, context: ExtractionContext, index: PictureIndex, sample: int) -> None:
        self.run, self.context, self.index = run, context, index
        self.chosen = np.sort(np.random.default_rng(0).permutation(index.count)[:sample])
        self.known, self.lacking = index.known_bits(), index.count_lacking()

    def look(self) -> None:
        """Let all stages look at the pictures of the sample."""
        index = self.index
        wanted = np.isin(np.arange(index.count), self.chosen)[:, None] & np.ones(len(index.stages), bool)
        tasks = [one.task for one in index.list_tasks(wanted, np.zeros(index.count), dict.fromkeys(index.stages, 0.0))]
        self.context.store.prepare(self.context.tables)
        # Timed with company: as many at a time as the run will have.
        size = max(1, min(8, len(tasks) // (2 * max(1, self.context.workers))))
        with open_queues(self.run, self.context) as queues:
            for queue in queues:
                queue.look(tasks, size)

    def read(self) -> tuple[pa.Table, float]:
        """Return posts of the sample, those with pictures first, and the seconds that reading one of these took."""
        begun = perf_counter()
        tables, _ = self.index.read_chosen(np.isin(np.arange(self.index.count), self.chosen))
        spent = (perf_counter() - begun) / max(1, len(self.chosen))
        plain = []
        for part in self.index.places:
            posts = read_part_posts(self.run, part)
            linked = pc.is_in(posts["post_id"], pc.unique(read_links(self.run, part)["post_id"]))
            plain.append(posts.filter(pc.invert(linked)).slice(0, max(1, PLAIN // len(self.index.places))))
        whole = pa.concat_tables([*tables, *plain], promote_options="default")
        return add_given(whole, self.context.pipeline.words), spent

    def simulate(self, cascade: Cascade, table: pa.Table, posts: int) -> CascadeSimulation:
        """Return what the cascade expects of all posts, for which those of the sample stand."""
        count, pictured = len(self.chosen), self.index.count
        shares = pictured / max(1, count), (posts - pictured) / max(1, len(table) - count)
        weights = np.where(np.arange(len(table)) < count, *shares)
        return self.index.simulate(cascade, table, self.chosen, self.known, self.lacking, weights)


def _price_here(cascade: Cascade, table: pa.Table, context: ExtractionContext) -> dict[str, float]:
    """Return the prices measured here; of stages that had nothing to look at those that the model knows."""
    looked = [stage for stage in context.fingerprints if context.stats.frames.get(stage)]
    return price_taggers(cascade.taggers, [table]) | context.stats.prices(looked, context.workers)


@dataclass(frozen=True)
class Times:
    """Seconds of a whole run over `posts` posts: `fixed` whatever is looked at, `text_alone` where nothing is."""

    posts: int
    fixed: float
    text_alone: float
    budget: Budget | None

    def plan(self, curve: Curve, simulation: CascadeSimulation, survey: Survey, model: str) -> Plan:
        """Return the plan as it is written; `model` is the digest of the model that it is for."""
        cascade, prices = simulation.cascade, simulation.prices
        given = None if self.budget is None else self.budget.seconds(self.posts, self.text_alone)
        chosen = curve.knee if given is None else curve.reach(given - self.fixed)
        milliseconds = simulation.left[:, prices < UNAFFORDABLE] @ prices[prices < UNAFFORDABLE]
        everything = self.fixed + float(simulation.weights @ milliseconds) / 1000
        return {
            "format": PLAN_FORMAT,
            "rate": float(curve.rates[chosen]),
            "network_rate": cascade.network_rate,
            "floor": float(min(curve.rates[curve.best], curve.rates[chosen])),
            "prices": {name: round(value, 5) for name, value in cascade.prices.items()},
            "budget": given,
            "chosen": int(chosen),
            "expected": self._expect(curve, given, chosen),
            "knee": curve.knee,
            "posts": self.posts,
            "text_alone_seconds": round(self.text_alone, 3),
            "everything_seconds": round(everything, 3),
            "text_alone_quality": round(simulation.expected_f1(simulation.text_alone()), 4),
            "everything_quality": round(simulation.expected_f1(simulation.everything()), 4),
            "curve": [
                {"rate": float(rate), "seconds": round(self.fixed + seconds, 3), "quality": round(quality, 4)}
                for rate, seconds, quality in zip(curve.rates, curve.seconds, curve.quality, strict=True)
            ],
            "loading": {name: round(value, 3) for name, value in survey.context.stats.loading.items()},
            "model": model,
            "posts_with_pictures": survey.index.count,
            "sample": len(survey.chosen),
        }

    def _expect(self, curve: Curve, given: float | None, chosen: int) -> Point:
        """Return the seconds that the run will take and the quality to be expected: a wave ends where the budget does."""
        seconds = float(curve.seconds[chosen])
        if given is not None:
            seconds = min(max(0.0, given - self.fixed), seconds)
        quality = float(np.interp(seconds, curve.seconds, curve.quality))
        return {"seconds": round(self.fixed + seconds, 3), "quality": round(quality, 4)}
