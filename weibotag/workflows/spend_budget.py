"""Looking where it pays: the looks that bring most per millisecond come first, until the time is spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.extraction.context import WORKER, ExtractionContext
from weibotag.extraction.coverage import ask_store
from weibotag.extraction.post_table import ROWS, Coder, gather
from weibotag.extraction.queue import PictureQueue
from weibotag.extraction.schedule import read_links
from weibotag.posts.supplied_words import add_given
from weibotag.runtime.run_folder import Run
from weibotag.taggers.cascade.policy import Cascade
from weibotag.taggers.cascade.simulation import CascadeSimulation, pick
from weibotag.taggers.cascade.stage_bits import given, translate

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

    `floor` is the rate below which a look is not worth it whatever is left.
    """

    started: float
    budget: float | None = None
    floor: float = 0.0
    reserve: float = 0.0

    def left(self) -> float:
        """Return the seconds that are left for looks; infinite without a budget."""
        return np.inf if self.budget is None else self.budget - self.reserve - (perf_counter() - self.started)


class PictureIndex:
    """The posts with pictures that can be used, and their files: who names which, and what is known of each."""

    def __init__(self, run: Run, parts: Sequence[str], context: ExtractionContext) -> None:
        self._run, self._context = run, context
        self.stages = tuple(context.fingerprints)
        self.places: dict[str, np.ndarray] = {}
        ids: dict[str, int] = {}
        self.paths: list[str] = []
        posts, files = [], []
        count = 0
        for part in parts:
            links = read_links(run, part).select(["post_id", "path", "file_id"])
            links = links.filter(pc.is_valid(links["file_id"]))
            for path, file_id in zip(links["path"].to_pylist(), links["file_id"].to_pylist(), strict=True):
                if file_id not in ids:
                    ids[file_id] = len(ids)
                    self.paths.append(path)
            named = pc.unique(links["post_id"])
            posts.append(pc.index_in(links["post_id"], named).to_numpy(zero_copy_only=False).astype(np.int64) + count)
            files.append(np.array([ids[file_id] for file_id in links["file_id"].to_pylist()], np.int64))
            self.places[part] = np.arange(count, count + len(named))
            count += len(named)
        self.posts, self.files = (np.concatenate([np.empty(0, np.int64), *some]) for some in (posts, files))
        # A file that a post names twice is looked at once.
        self.posts, self.files = np.unique(np.stack([self.posts, self.files]), axis=1)
        self.count = count
        self.looked = ask_store(pa.array(list(ids), pa.string()), context)

    def gather(self, part: str, wanted: np.ndarray, coder: Coder | None) -> pa.Table:
        """Return posts of a part, by their place among those of the part here, with what is known of their pictures."""
        links = read_links(self._run, part)
        named = pc.unique(links.filter(pc.is_valid(links["file_id"]))["post_id"]).take(pa.array(wanted))
        posts = pq.read_table(self._run.path("posts", part))
        table = posts.take(pc.index_in(named, posts["post_id"].combine_chunks()))
        own = links.filter(pc.is_in(links["post_id"], named))
        table = gather(table, own, self._context, coder, with_vectors=True)
        return add_given(table, self._context.pipeline.words)

    def refresh(self, touched: np.ndarray) -> None:
        """Ask the store again for some files."""
        new = ask_store(self.looked.file_ids.take(pa.array(touched)), self._context)
        for name in ("bits", "decoded", "usable"):
            getattr(self.looked, name)[touched] = getattr(new, name)

    def lacking(self, place: int) -> np.ndarray:
        """Return a bool per file: whether a stage has yet to see it."""
        return (self.looked.bits >> place & 1 == 0) & self.looked.usable

    def count_lacking(self) -> np.ndarray:
        """Return how many files of each post each stage has yet to see, (posts, stages)."""
        columns = [
            np.bincount(self.posts, self.lacking(place)[self.files], minlength=self.count)
            for place in range(len(self.stages))
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((self.count, 0))


def escalate(
    run: Run, parts: Sequence[str], context: ExtractionContext, cascade: Cascade, coder: Coder | None, purse: TimeBudget
) -> tuple[list[str], dict[str, Any]]:
    """Look at pictures where that pays; return one line for each that could not be looked at, and what it came to.

    In waves: posts are answered by what is known, for each the look that brings most per millisecond is taken where it
    brings at least the cascade's rate, those with the most first, and with what they found the posts are answered again.
    `cascade.rate` becomes the rate that was reached.
    """
    # What a run that was stopped has spent counts.
    earlier = sum(receipt.get("seconds", 0.0) for kind in ("looks", "second-looks") for receipt in run.receipts(kind))
    purse.started -= earlier / max(1, context.workers)
    board = PictureIndex(run, parts, context)
    climb = BudgetedExtraction(run, parts, context, cascade, coder, board, purse)
    context.files, context.reused = len(board.paths), int((board.looked.bits == (1 << len(board.stages)) - 1).sum())
    context.store.prepare()
    first = board.looked.bits.copy(), board.count_lacking()
    begun = perf_counter()
    with PictureQueue(run, context) as lookers:
        judge = climb.understand_sample(climb.look_at_sample(lookers), *first)
        while climb.left() > 0 and climb.take_wave(lookers):
            pass
    context.failed = len(climb.faults)
    context.store.compact("media", context.media)
    for name, fingerprint in context.fingerprints.items():
        context.store.compact(name, fingerprint)
    cascade.rate = climb.reached
    whole = float((first[1] * climb.prices).sum()) / 1000
    posts = sum(pq.read_metadata(run.path("posts", part)).num_rows for part in parts)
    told = {
        "rate": climb.reached,
        "waves": climb.waves,
        "posts_with_pictures": board.count,
        "text_alone_seconds": round(posts * cascade.prices["text"] / 1000, 2),
        "looking_seconds": round(perf_counter() - begun, 2),
        "looking_at_everything_seconds": round(whole, 2),
        "sample": {"posts": 0} if judge is None else {"posts": len(judge.known)} | judge.judge(judge.walk(climb.reached)),
    }
    return climb.faults, told


class BudgetedExtraction:
    """The waves of one run: what looks would bring each post (`gains`), who has looked (`bits`), and what it came to."""

    def __init__(
        self,
        run: Run,
        parts: Sequence[str],
        context: ExtractionContext,
        cascade: Cascade,
        coder: Coder | None,
        board: PictureIndex,
        purse: TimeBudget,
    ) -> None:
        self.run, self.parts, self.context, self.cascade, self.coder = run, parts, context, cascade, coder
        self.board, self.purse = board, purse
        self.prices = np.array([cascade.prices[stage] for stage in board.stages])
        self.order = [cascade.stages.index(stage) for stage in board.stages]
        self.gains = np.zeros((board.count, len(board.stages)), np.float32)
        self.bits = np.zeros(board.count, np.int64)
        self.stale = np.ones(board.count, bool)
        self.rate = self.reached = cascade.rate
        self.loaded: set[str] = set()
        self.faults: list[str] = []
        self.waves: list[dict[str, Any]] = []

    def left(self) -> float:
        """Return the seconds that are left for looks, infinite without a budget; 0 after the deadline."""
        return 0.0 if self.context.is_late() else self.purse.left()

    def look_at_sample(self, lookers: PictureQueue) -> np.ndarray:
        """Look at some posts whole; return which (bool per post)."""
        count = self.board.count
        most = min(max(LEAST_SAMPLED, ceil(SAMPLED * count)), MOST_SAMPLED, int(SAMPLE_COST * count))
        if self.purse.budget is not None:
            share = SAMPLE_COST * max(0.0, self.purse.left())
            most = min(most, int(1000 * share / max(1e-6, self.prices.sum())))
            if not self._choose_models(np.ones(len(self.prices))).all():
                most = 0
        most = most if most >= LEAST_SAMPLED else 0
        sample = np.zeros(count, bool)
        sample[np.random.default_rng(0).permutation(count)[:most]] = True
        masks = [self.board.lacking(place)[self.board.files] & sample[self.board.posts] for place in range(len(self.prices))]
        self._look(_list_files(self.board, masks, np.zeros(count), self.cascade.prices), lookers)
        return sample

    def take_wave(self, lookers: PictureQueue) -> bool:
        """Answer, choose, look; return whether another wave may follow."""
        begun = perf_counter()
        for part in self.parts:
            self._appraise(part)
        if not self.purse.reserve:
            posts = sum(pq.read_metadata(self.run.path("posts", part)).num_rows for part in self.parts)
            new = float((self.bits == 0).mean()) if self.board.count else 0.0
            last = new * LAST + (1 - new) * LAST_KNOWN
            self.purse.reserve = last * (perf_counter() - begun) * posts / max(1, self.board.count)
        board, purse = self.board, self.purse
        lacking = board.count_lacking()
        costs = np.maximum(lacking * self.prices, 1e-6)
        gains = np.where(lacking > 0, self.gains, 0)
        gains = gains * self._choose_models(np.where(gains >= self.rate * costs, gains, 0).sum(axis=0))
        chosen = pick(gains, costs, self.bits, self.rate)
        if not (chosen >= 0).any():
            if purse.budget is None or purse.left() < UNSPENT * purse.budget or self.rate <= purse.floor:
                return False
            self.rate = self.reached = max(purse.floor, self.rate / 2)
            return True
        every = np.arange(board.count)
        ratios = np.where(chosen >= 0, gains[every, chosen] / costs[every, chosen], -np.inf)
        masks = [board.lacking(place)[board.files] & (chosen[board.posts] == place) for place in range(len(self.prices))]
        files = _list_files(board, masks, ratios, self.cascade.prices)
        self._look(files, lookers)
        if lookers.begun < len(files):
            self.reached = files[max(0, lookers.begun - 1)]["ratio"]
        seconds = round(perf_counter() - purse.started, 2)
        self.waves.append({"files": lookers.begun, "wanted": len(files), "rate": self.reached, "until": seconds})
        return True

    def _look(self, files: list[dict[str, Any]], lookers: PictureQueue) -> None:
        # Few enough for all workers.
        size = max(1, min(self.context.pipeline.workers.part_files, ceil(len(files) / max(1, self.context.workers))))
        models = {stage for file in files for stage in file["stages"]}
        # Within a budget no model is loaded late: all workers load what this wave needs when it begins.
        self.faults += lookers.look(files, size, self.left, () if self.purse.budget is None else models)
        self.loaded |= models
        touched = np.unique(np.array([file["place"] for file in files], np.int64))
        self.board.refresh(touched)
        # What could not be looked at is not asked for again.
        lost = [file["place"] for file in files if file["file_id"] in self.context.unseen]
        self.board.looked.usable[lost] = False
        self.stale[self.board.posts[np.isin(self.board.files, touched)]] = True

    def _choose_models(self, promised: np.ndarray) -> np.ndarray:
        """Return which stages (bool each) have their models loaded or are worth it now, those that promise most first."""
        spare = LOADING_SHARE * self.purse.left()
        allowed = np.array([stage in self.loaded for stage in self.board.stages], bool)
        for place in np.argsort(-promised, kind="stable"):
            stage = self.board.stages[place]
            names = (stage,) if allowed.any() else (stage, WORKER)
            needed = 0.0 if allowed[place] else sum(self.context.loading.get(name, LOADING) for name in names)
            if promised[place] > 0 and needed <= spare:
                allowed[place] = True
                spare -= needed
        return allowed

    def _appraise(self, part: str) -> None:
        """Answer those posts of a part that are stale, and put down what looks would bring them, and who has looked."""
        places = self.board.places[part]
        wanted = np.flatnonzero(self.stale[places])
        for start in range(0, len(wanted), ROWS):
            some = wanted[start : start + ROWS]
            table = self.board.gather(part, some, self.coder)
            looked = table["looked"].to_numpy()
            bits = translate(looked, self.board.stages, self.cascade.stages)
            gains = self.cascade.answer(table, bits, self.rate).gains[:, self.order]
            self.gains[places[some]] = gains * table["pictured"].to_numpy()[:, None]
            self.bits[places[some]] = looked
        self.stale[places] = False

    def understand_sample(self, sample: np.ndarray, first: np.ndarray, lacked: np.ndarray) -> CascadeSimulation | None:
        """Return what posts that were looked at whole tell of the others, None where there are none.

        `first` and `lacked` are what was known of all files, and how many each stage lacked of all posts, before.
        """
        tables, places = [], []
        for part in self.parts:
            own = self.board.places[part]
            wanted = np.flatnonzero(sample[own])
            if len(wanted):
                tables.append(self.board.gather(part, wanted, self.coder))
                places.append(own[wanted])
        if sample.sum() < LEAST_SAMPLED:
            return None
        table, rows = pa.concat_tables(tables, promote_options="default"), np.concatenate(places)
        whole = (1 << len(self.board.stages)) - 1
        complete = (table["looked"].to_numpy() == whole) & table["pictured"].to_numpy()
        table, rows = table.filter(pa.array(complete)), rows[complete]
        if not len(rows):
            return None
        known = np.full(self.board.count, whole, np.int64)
        np.bitwise_and.at(known, self.board.posts, first[self.board.files])
        known = translate(known[rows], self.board.stages, self.cascade.stages)
        left = np.ones((len(rows), len(self.cascade.stages)))
        left[:, self.order] = lacked[rows]
        known |= given(table, self.cascade.stages)
        return CascadeSimulation(self.cascade, table, np.ones(len(rows), bool), known, left)


def _list_files(
    board: PictureIndex, masks: Sequence[np.ndarray], ratios: np.ndarray, prices: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the files to look at with their stages, those that bring most per millisecond first.

    `masks` tell for each stage which pairs of post and file are wanted, `ratios` what each post promises.
    """
    best: dict[int, list[Any]] = {}
    for stage, wanted in zip(board.stages, masks, strict=True):
        for post, file in zip(board.posts[wanted].tolist(), board.files[wanted].tolist(), strict=True):
            kept = best.setdefault(file, [-np.inf, set()])
            kept[0] = max(kept[0], float(ratios[post]))
            kept[1].add(stage)
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    ids = board.looked.file_ids.to_pylist()
    return [
        {
            "path": board.paths[file],
            "file_id": ids[file],
            "stages": [stage for stage in board.stages if stage in stages],
            "known": bool(board.looked.decoded[file]),
            "place": file,
            "ratio": ratio,
            "seconds": sum(prices[stage] for stage in stages) / 1000,
        }
        for file, (ratio, stages) in ranked
    ]
