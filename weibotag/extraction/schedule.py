"""Looking at all pictures that posts name: which of them the store does not know, and the workers that look at those."""

from collections.abc import Iterable
from math import inf

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.coverage import ask_store
from weibotag.extraction.ingest import read_links
from weibotag.extraction.jobs import PictureTask
from weibotag.extraction.queue import FIRST_LOOKS, SECOND_LOOKS, PictureQueue, group_stages, share_out
from weibotag.extraction.reposts import check_reposts, find_reposts
from weibotag.extraction.stats import ExtractionStats
from weibotag.runtime.run_folder import Run


def look(run: Run, parts: Iterable[str], context: ExtractionContext) -> ExtractionStats:
    """Look at every file that posts of these parts name and the store does not know; return what that came to."""
    for kind in (FIRST_LOOKS, SECOND_LOOKS):
        run.forget(kind)
    stats = ExtractionStats()
    needed = _find_needed(run, parts, context, stats)
    if not needed:
        return stats
    context.store.prepare()
    if context.pipeline.reuse == "near":
        needed = find_reposts(run, needed, context)

    def left() -> float:
        stats.late = stats.late or context.is_late()
        return 0.0 if stats.late else inf

    # One group of stages after the other, so that their models are not in memory at once.
    for names in group_stages(context.stages):
        with PictureQueue(names, run, context, stats) as queue:
            queue.look(needed, share_out(len(needed), context), left)
    compact(context)
    stats.reposts = check_reposts(run, context)
    return stats


def compact(context: ExtractionContext) -> None:
    """Merge the small parts that looking has left in the store."""
    for name, fingerprint in (("media", context.media), *context.fingerprints.items()):
        context.store.compact(name, fingerprint)


def _find_needed(run: Run, parts: Iterable[str], context: ExtractionContext, stats: ExtractionStats) -> list[PictureTask]:
    """Return the files to look at, each once, with the stages that have not seen all its frames."""
    needed: list[PictureTask] = []
    seen: set[str] = set()
    for part in parts:
        links = read_links(run, part)
        links = links.filter(pc.is_valid(links["file_id"]))
        named = zip(links["file_id"].to_pylist(), links["path"].to_pylist(), strict=True)
        paths = {file_id: path for file_id, path in named if file_id not in seen}
        if not paths:
            continue
        seen.update(paths)
        coverage = ask_store(pa.array(paths), context)
        for (file_id, path), bits, known in zip(
            paths.items(), coverage.bits.tolist(), coverage.decoded.tolist(), strict=True
        ):
            stages = [name for place, name in enumerate(context.stages) if not bits >> place & 1]
            if not known or stages:
                needed.append(PictureTask(path, file_id, stages, known))
    stats.files = len(seen)
    stats.reused = len(seen) - len(needed)
    return needed
