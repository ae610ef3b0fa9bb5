"""The posts with pictures that can be used, and their files: who shows which, and which stages have seen each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.ingest import read_links, read_part_posts
from weibotag.extraction.jobs import PictureTask
from weibotag.extraction.post_table import VectorWords, add_findings
from weibotag.posts.supplied_words import add_given
from weibotag.runtime.run_folder import Run
from weibotag.taggers.cascade.policy import Cascade, given, translate
from weibotag.taggers.cascade.simulation import CascadeSimulation


@dataclass(frozen=True)
class RankedTask:
    """A file to look at, its number in the index, and the gain per millisecond that looking at it promises."""

    task: PictureTask
    file: int
    ratio: float


class PictureIndex:
    """Numbers the `count` posts that name files, and the files at `paths`.

    `posts` and `files` (int64, pairs) say who shows which, each once; `places` the numbers of a part's posts, in order;
    `coverage` what is known of each file.
    """

    def __init__(self, run: Run, parts: Sequence[str], context: ExtractionContext, words: VectorWords | None) -> None:
        self._run, self._context, self._words = run, context, words
        self.stages = tuple(context.fingerprints)
        self.places: dict[str, np.ndarray] = {}
        paths: dict[str, str] = {}
        ids: list[pa.Array] = []
        posts: list[np.ndarray] = []
        self.count = 0
        for part in parts:
            links = read_links(run, part)
            links = links.filter(pc.is_valid(links["file_id"]))
            for path, file_id in zip(links["path"].to_pylist(), links["file_id"].to_pylist(), strict=True):
                paths.setdefault(file_id, path)
            named = pc.unique(links["post_id"])
            posts.append(pc.index_in(links["post_id"], named).to_numpy(zero_copy_only=False).astype(np.int64) + self.count)
            ids.append(links["file_id"].combine_chunks())
            self.places[part] = np.arange(self.count, self.count + len(named))
            self.count += len(named)
        self.paths = list(paths.values())
        self.coverage = context.stats.coverage = context.ask_store(pa.array(list(paths), pa.string()))
        files = [pc.index_in(own, self.coverage.file_ids).to_numpy(zero_copy_only=False).astype(np.int64) for own in ids]
        pairs = np.stack([np.concatenate([np.empty(0, np.int64), *some]) for some in (posts, files)])
        # A file that a post names twice is looked at once.
        self.posts, self.files = np.unique(pairs, axis=1)

    def read_posts(self, part: str, wanted: np.ndarray) -> pa.Table:
        """Return posts of a part, by their places among those of the part here, with what is known of their pictures."""
        links = read_links(self._run, part)
        named = pc.unique(links.filter(pc.is_valid(links["file_id"]))["post_id"]).take(pa.array(wanted))
        posts = read_part_posts(self._run, part)
        table = posts.take(pc.index_in(named, posts["post_id"].combine_chunks()))
        own = links.filter(pc.is_in(links["post_id"], named))
        table = add_findings(self._run, table, own, self._context, self._words, with_vectors=True)
        return add_given(table, self._context.pipeline.words)

    def read_chosen(self, chosen: np.ndarray) -> tuple[list[pa.Table], np.ndarray]:
        """Return the posts where a mask (count,) holds, as `read_posts` does, and their numbers."""
        wanted = {part: np.flatnonzero(chosen[own]) for part, own in self.places.items()}
        tables = [self.read_posts(part, places) for part, places in wanted.items() if len(places)]
        return tables, np.flatnonzero(chosen)

    def refresh(self, touched: np.ndarray) -> None:
        """Ask the store again for some files."""
        new = self._context.ask_store(self.coverage.file_ids.take(pa.array(touched)))
        for name in ("bits", "decoded", "usable"):
            getattr(self.coverage, name)[touched] = getattr(new, name)

    def known_bits(self) -> np.ndarray:
        """Return the stages that have seen all files of each post, as bits (count,)."""
        bits = np.full(self.count, self._context.every_bit, np.int64)
        np.bitwise_and.at(bits, self.posts, self.coverage.bits[self.files])
        return bits

    def lacking(self, place: int) -> np.ndarray:
        """Return a bool per file: whether a stage has yet to see it."""
        return np.asarray((self.coverage.bits >> place & 1 == 0) & self.coverage.usable)

    def count_lacking(self) -> np.ndarray:
        """Return how many files of each post each stage has yet to see, (count, stages)."""
        columns = [
            np.bincount(self.posts, self.lacking(place)[self.files], minlength=self.count)
            for place in range(len(self.stages))
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((self.count, 0))

    def list_tasks(self, wanted: np.ndarray, ratios: np.ndarray, prices: Mapping[str, float]) -> list[RankedTask]:
        """Return the files that stages have yet to see, those that promise most per millisecond first.

        `wanted` (count, stages) tells which stages are to look at which posts, `ratios` (count,) what each post promises.
        """
        best: dict[int, tuple[float, list[str]]] = {}
        for place, stage in enumerate(self.stages):
            pairs = self.lacking(place)[self.files] & wanted[self.posts, place]
            for post, file in zip(self.posts[pairs].tolist(), self.files[pairs].tolist(), strict=True):
                ratio, stages = best.setdefault(file, (-np.inf, []))
                own = stages if stages and stages[-1] == stage else [*stages, stage]
                best[file] = max(ratio, float(ratios[post])), own
        ids, known = self.coverage.file_ids.to_pylist(), self.coverage.decoded.tolist()
        seconds = {file: sum(prices[stage] for stage in stages) / 1000 for file, (_, stages) in best.items()}
        tasks = [
            RankedTask(PictureTask(self.paths[file], ids[file], stages, known[file], seconds[file]), file, ratio)
            for file, (ratio, stages) in best.items()
        ]
        return sorted(tasks, key=lambda one: (-one.ratio, one.file))

    def simulate(
        self,
        cascade: Cascade,
        table: pa.Table,
        rows: np.ndarray,
        known: np.ndarray,
        lacking: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> CascadeSimulation:
        """Return what a cascade would do with posts: those numbered `rows`, then in `table` others without pictures.

        `known` (count,) and `lacking` (count, stages) are what `known_bits` and `count_lacking` said before all stages had
        looked at these posts.
        """
        count = len(rows)
        bits, left = given(table, cascade.stages), np.zeros((len(table), len(cascade.stages)))
        bits[:count] |= translate(known[rows], self.stages, cascade.stages)
        for place, stage in enumerate(self.stages):
            left[:count, cascade.stages.index(stage)] = lacking[rows, place]
        # What only words that posts bring along could say, nothing here can look for.
        left[:, [stage not in self.stages for stage in cascade.stages]] = 1
        seen = (np.arange(len(table)) < count) | (bits > 0)
        return CascadeSimulation(cascade, table, seen, bits, left, weights)
