"""Looking where it pays: the looks that bring most per millisecond come first, until the time is spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from time import perf_counter
from typing import TypedDict

import numpy as np
import pyarrow as pa

from weibotag.extraction.context import WORKER, ExtractionContext
from weibotag.extraction.ingest import count_posts
from weibotag.extraction.post_table import ROWS, VectorWords
from weibotag.extraction.schedule import FIRST_LOOKS, SECOND_LOOKS, PictureQueue, compact, open_queues, share_out
from weibotag.runtime.run_folder import KeptReceipt, Run
from weibotag.taggers.cascade.policy import Cascade, choose_step, translate
from weibotag.taggers.cascade.simulation import CascadeSimulation
from weibotag.workflows.picture_index import PictureIndex, RankedTask

# Tagging and writing at the end take about so many times as long as the first answers, per post: of posts of whose pictures
# nothing is known at first, which the first answers read as text, and of the others.
LAST, LAST_KNOWN = 2.5, 1.2
# When the rate of a plan has left more than this share of the budget, lower rates are tried.
UNSPENT = 0.05
# Posts that are looked at whole, whatever they promise, to tell what the others lose: a share of those with pictures, so
# many at most, and for this share of the time at most. Fewer than so many tell nothing.
SAMPLED, LEAST_SAMPLED, MOST_SAMPLED, SAMPLE_COST = 0.01, 5, 200, 0.05
# Models are loaded while that takes this share of what is left; seconds that it takes where nobody has measured it.
LOADING_SHARE, LOADING = 0.3, 0.5


@dataclass
class TimeBudget:
    """The seconds that a run may take in all, from `started` (perf_counter); `budget` None: as long as looks pay.

    `floor` is the rate below which a look is not worth it whatever is left, `reserve` the seconds kept for what comes after.
    """

    started: float
    budget: float | None = None
    floor: float = 0.0
    reserve: float = 0.0

    def left(self) -> float:
        """Return the seconds that are left for looks; infinite without a budget."""
        return inf if self.budget is None else self.budget - self.reserve - (perf_counter() - self.started)


class Wave(TypedDict):
    """Files looked at and wanted, the rate that was reached, and the seconds since the run began."""

    files: int
    wanted: int
    rate: float
    until: float


class BudgetSummary(TypedDict):
    """What looking within a budget came to; `sample` has what posts that were looked at whole tell of the others."""

    rate: float
    waves: list[Wave]
    posts_with_pictures: int
    text_alone_seconds: float
    looking_seconds: float
    looking_at_everything_seconds: float
    sample: dict[str, float]


def look_within_budget(
    run: Run,
    parts: Sequence[str],
    context: ExtractionContext,
    cascade: Cascade,
    words: VectorWords | None,
    budget: TimeBudget,
) -> BudgetSummary:
    """Look at pictures where that pays; return what it came to.

    In waves: posts are answered by what is known, for each the look that brings most per millisecond is taken where it
    brings at least the cascade's rate, those with the most first, and with what they found the posts are answered again.
    """
    # What a run that was stopped has spent counts.
    receipts = [receipt for kind in (FIRST_LOOKS, SECOND_LOOKS) for receipt in run.receipts(KeptReceipt, kind)]
    budget.started -= sum(receipt.get("seconds", 0.0) for receipt in receipts) / max(1, context.workers)
    index = PictureIndex(run, parts, context, words)
    posts = count_posts(run, parts)
    context.stats.files = len(index.paths)
    context.stats.reused = int((index.coverage.bits == context.every_bit).sum())
    context.store.prepare(context.tables)
    before = index.known_bits(), index.count_lacking()
    begun = perf_counter()
    with open_queues(run, context) as queues:
        extraction = BudgetedExtraction(posts, context, cascade, index, budget, queues)
        simulation = extraction.simulate_sample(extraction.look_at_sample(), *before)
        while extraction.left() > 0 and extraction.take_wave():
            pass
    compact(context)
    sample: dict[str, float] = {"posts": 0}
    if simulation is not None:
        sample = {"posts": len(simulation.known), **simulation.judge(simulation.run(extraction.reached))}
    return {
        "rate": extraction.reached,
        "waves": extraction.waves,
        "posts_with_pictures": index.count,
        "text_alone_seconds": round(posts * cascade.prices["text"] / 1000, 2),
        "looking_seconds": round(perf_counter() - begun, 2),
        "looking_at_everything_seconds": round(float((before[1] * extraction.prices).sum()) / 1000, 2),
        "sample": sample,
    }


class BudgetedExtraction:
    """The waves of one run over `posts` posts in all.

    Of each post of the index: what looks would bring it (`gains`, (posts, stages)), which stages have seen all its pictures
    (`bits`), and whether that is to be asked again (`stale`). `rate` is the least gain per millisecond that looks are taken
    for, `reached` that of the last one taken; `loaded` are the stages whose models workers have loaded.
    """

    def __init__(
        self,
        posts: int,
        context: ExtractionContext,
        cascade: Cascade,
        index: PictureIndex,
        budget: TimeBudget,
        queues: Sequence[PictureQueue],
    ) -> None:
        self.posts, self.context, self.cascade = posts, context, cascade
        self.index, self.budget, self.queues = index, budget, queues
        self.prices = np.array([cascade.prices[stage] for stage in index.stages])
        self.order = [cascade.stages.index(stage) for stage in index.stages]
        self.gains = np.zeros((index.count, len(index.stages)), np.float32)
        self.bits = np.zeros(index.count, np.int64)
        self.stale = np.ones(index.count, bool)
        self.rate = self.reached = cascade.rate
        self.loaded: set[str] = set()
        self.waves: list[Wave] = []

    def left(self) -> float:
        """Return the seconds that are left for looks, infinite without a budget; 0 after the deadline."""
        return 0.0 if self.context.is_late() else self.budget.left()

    def look_at_sample(self) -> np.ndarray:
        """Look at some posts whole; return which (bool per post)."""
        count = self.index.count
        most = min(max(LEAST_SAMPLED, ceil(SAMPLED * count)), MOST_SAMPLED, int(SAMPLE_COST * count))
        if self.budget.budget is not None:
            share = SAMPLE_COST * max(0.0, self.budget.left())
            most = int(min(most, 1000 * share / max(1e-6, self.prices.sum())))
            if not self._choose_models(np.ones(len(self.prices))).all():
                most = 0
        most = most if most >= LEAST_SAMPLED else 0
        sample = np.zeros(count, bool)
        sample[np.random.default_rng(0).permutation(count)[:most]] = True
        wanted = np.repeat(sample[:, None], len(self.prices), axis=1)
        self._look(self.index.list_tasks(wanted, np.zeros(count), self.cascade.prices))
        return sample

    def simulate_sample(self, sample: np.ndarray, known: np.ndarray, lacking: np.ndarray) -> CascadeSimulation | None:
        """Return the simulation of posts that were looked at whole, None where they are too few to tell of the others.

        `known` and `lacking` are the index's answers from before they were looked at.
        """
        if sample.sum() < LEAST_SAMPLED:
            return None
        tables, rows = self.index.read_chosen(sample)
        table = pa.concat_tables(tables, promote_options="default")
        complete = (table["looked"].to_numpy() == self.context.every_bit) & table["pictured"].to_numpy()
        if not complete.any():
            return None
        return self.index.simulate(self.cascade, table.filter(pa.array(complete)), rows[complete], known, lacking)

    def take_wave(self) -> bool:
        """Answer, choose, look; return whether another wave may follow."""
        begun = perf_counter()
        for part in self.index.places:
            self._appraise(part)
        if not self.budget.reserve:
            self._keep_reserve(perf_counter() - begun)
        index, budget = self.index, self.budget
        lacking = index.count_lacking()
        gains = np.where(lacking > 0, self.gains, 0)
        promised = np.where(gains >= self.rate * lacking * self.prices, gains, 0).sum(axis=0)
        step = choose_step(gains * self._choose_models(promised), lacking, self.prices, self.bits, self.rate)
        if not (step.stage >= 0).any():
            if budget.budget is None or budget.left() < UNSPENT * budget.budget or self.rate <= budget.floor:
                return False
            self.rate = self.reached = max(budget.floor, self.rate / 2)
            return True
        wanted = step.stage[:, None] == np.arange(len(self.prices))
        tasks = index.list_tasks(wanted, step.ratio, self.cascade.prices)
        files = self._look(tasks)
        if files < len(tasks):
            self.reached = tasks[max(0, files - 1)].ratio
        until = round(perf_counter() - budget.started, 2)
        self.waves.append({"files": files, "wanted": len(tasks), "rate": self.reached, "until": until})
        return True

    def _keep_reserve(self, seconds: float) -> None:
        """Keep back the time for tagging all posts, by the seconds that the first answers took."""
        new = float((self.bits == 0).mean()) if self.index.count else 0.0
        last = new * LAST + (1 - new) * LAST_KNOWN
        self.budget.reserve = last * seconds * self.posts / max(1, self.index.count)

    def _look(self, tasks: Sequence[RankedTask]) -> int:
        """Look at files; return how many were begun."""
        models = {stage for one in tasks for stage in one.task.stages}
        # Within a budget no model is loaded late: all workers load what this wave needs when it begins.
        preload = () if self.budget.budget is None else models
        size = share_out(len(tasks), self.context)
        begun = min(queue.look([one.task for one in tasks], size, self.left, preload) for queue in self.queues)
        self.loaded |= models
        touched = np.unique(np.array([one.file for one in tasks], np.int64))
        self.index.refresh(touched)
        # What could not be looked at is not asked for again.
        self.index.coverage.usable[[one.file for one in tasks if one.task.file_id in self.context.stats.unseen]] = False
        self.stale[self.index.posts[np.isin(self.index.files, touched)]] = True
        return begun

    def _choose_models(self, promised: np.ndarray) -> np.ndarray:
        """Return which stages (bool each) have their models loaded or are worth it now, those that promise most first."""
        spare = LOADING_SHARE * self.budget.left()
        allowed = np.array([stage in self.loaded for stage in self.index.stages], bool)
        for place in np.argsort(-promised, kind="stable"):
            stage = self.index.stages[place]
            names = (stage,) if allowed.any() else (stage, WORKER)
            needed = 0.0 if allowed[place] else sum(self.context.stats.loading.get(name, LOADING) for name in names)
            if promised[place] > 0 and needed <= spare:
                allowed[place] = True
                spare -= needed
        return allowed

    def _appraise(self, part: str) -> None:
        """Answer those posts of a part that are stale, and put down what looks would bring them, and who has looked."""
        places = self.index.places[part]
        wanted = np.flatnonzero(self.stale[places])
        for start in range(0, len(wanted), ROWS):
            some = wanted[start : start + ROWS]
            table = self.index.read_posts(part, some)
            looked = table["looked"].to_numpy()
            bits = translate(looked, self.index.stages, self.cascade.stages)
            gains = self.cascade.answer(table, bits, self.rate).gains[:, self.order]
            self.gains[places[some]] = gains * table["pictured"].to_numpy()[:, None]
            self.bits[places[some]] = looked
        self.stale[places] = False
