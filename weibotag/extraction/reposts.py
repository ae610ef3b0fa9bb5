"""Reposts in a run: files that were resized or saved anew are given what was found in the one that was looked at."""

from dataclasses import asdict
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.progress import bar
from weibotag.core.schema import arrow_schema
from weibotag.extraction.context import ExtractionContext, RepostCounts
from weibotag.extraction.jobs import PictureJob, PictureReceipt, PictureTask
from weibotag.runtime.pool import Limits, run_parts
from weibotag.runtime.run_folder import Run
from weibotag.vision.media.near_duplicates import Print, Prints, look_same
from weibotag.vision.stage import stage_class

PART = "all"
PART_FILES = 256
# Of so many reposts one, by its hash, is looked at all the same, to see how often giving another's findings is right.
CHECKED_ONE_IN = 10


def find_reposts(run: Run, needed: list[PictureTask], context: ExtractionContext) -> list[PictureTask]:
    """Return the files that are looked at: those of `needed` that are no reposts, and some that are, to check.

    Which file is given whose findings is written to the run (schema "same"), so that a run that goes on answers the same.
    """
    if not run.done("same", PART):
        _take_prints(needed, context)
        run.write("same", PART, _match([task.file_id for task in needed if not task.known], context))
    left_out = set(read_given(run)["file_id"].to_pylist())
    return [task for task in needed if task.file_id not in left_out]


def read_given(run: Run) -> pa.Table:
    """Return the rows of schema "same" of the files that were given another's findings; none before they were sought."""
    if not run.done("same", PART):
        return arrow_schema("same").empty_table()
    same = run.read("same", PART)
    return same.filter(pc.invert(same["same_checked"]))


def give_findings(links: pa.Table, run: Run) -> pa.Table:
    """Return links in which a repost bears the id of the file whose findings it is given."""
    given = read_given(run)
    if not len(given):
        return links
    place = pc.index_in(links["file_id"], given["file_id"].combine_chunks())
    ids = pc.coalesce(given["same_as"].combine_chunks().take(place.combine_chunks()), links["file_id"])
    return links.set_column(links.column_names.index("file_id"), "file_id", ids)


def take_back(run: Run, links: pa.Table, lost: pa.Array) -> pa.Table:
    """Return links in which reposts of these files, whose findings are lost, bear their own ids, from now on in this run."""
    same = run.read("same", PART)
    run.write("same", PART, same.filter(pc.invert(pc.is_in(same["same_as"], lost))))
    own: dict[str, str] = {}
    for part in run.list_parts("links"):
        raw = run.read("links", part, ["path", "file_id"])
        raw = raw.filter(pc.is_in(raw["path"], links["path"].combine_chunks()))
        own |= dict(zip(raw["path"].to_pylist(), raw["file_id"].to_pylist(), strict=True))
    ids = pa.array([own.get(path) for path in links["path"].to_pylist()], pa.string())
    ids = pc.if_else(pc.is_in(links["file_id"].combine_chunks(), lost), ids, links["file_id"].combine_chunks())
    return links.set_column(links.column_names.index("file_id"), "file_id", ids)


def check_reposts(run: Run, context: ExtractionContext) -> RepostCounts:
    """Return how many files were reposts, how many of them were looked at to check, and how many of those agreed.

    Nothing where reposts are not sought. A repost agrees when a fresh look finds what each stage takes for the same
    (`PictureStage.agree`).
    """
    if not run.done("same", PART):
        return {}
    same = run.read("same", PART)
    checked = same.filter(same["same_checked"])
    agreed = dict.fromkeys(checked["file_id"].to_pylist(), True)
    for stage in agreed and context.fingerprints:
        agree = stage_class(stage).agree
        rows = [
            {row["media_id"]: row for row in context.store.read(stage, context.fingerprints[stage], ids).to_pylist()}
            for ids in (checked["file_id"], checked["same_as"])
        ]
        for file_id, same_as in zip(checked["file_id"].to_pylist(), checked["same_as"].to_pylist(), strict=True):
            fresh, given = rows[0].get(file_id), rows[1].get(same_as)
            agreed[file_id] &= fresh is not None and given is not None and agree(fresh, given)
    return {"reposts": len(same), "checked": len(agreed), "agreed": sum(agreed.values())}


def _take_prints(needed: list[PictureTask], context: ExtractionContext) -> None:
    """Have workers take the prints of the files that have none in the store."""
    missing = set(context.store.missing("near", context.media, pa.array([task.file_id for task in needed])).to_pylist())
    tasks = [task for task in needed if task.file_id in missing]
    parts = [tasks[start : start + PART_FILES] for start in range(0, len(tasks), PART_FILES)]
    jobs = (
        asdict(PictureJob(f"{number:06d}", str(context.store.root), context.limits, some))
        for number, some in enumerate(parts)
    )
    limits = Limits(silence=context.pipeline.workers.picture_seconds, memory=context.worker_memory, lives=1)
    with bar(len(tasks), "seeking reposts", context.quiet) as progress:
        # Files of a part that fails have no prints and are looked at.
        for receipt in run_parts("weibotag.extraction.jobs:take_prints", jobs, min(context.workers, len(parts)), limits):
            progress.advance(cast(PictureReceipt, receipt).get("files", 0))


def _match(file_ids: list[str], context: ExtractionContext) -> pa.Table:
    """Return rows of schema "same" for those files, in order, that are reposts of one in the store or of one before."""
    known = context.store.scan("near", context.media, ["file_id", "near_hash"])
    new = known.filter(pc.is_in(known["file_id"], pa.array(file_ids, pa.string())))
    hash_of = dict(zip(new["file_id"].to_pylist(), new["near_hash"].to_pylist(), strict=True))
    known = _fully_known(known.filter(pc.is_valid(known["near_hash"])), context)
    prints = Prints(known["file_id"].to_pylist(), known["near_hash"].to_pylist())
    candidates: dict[str, list[str]] = {}
    for file_id in file_ids:
        if hash_of.get(file_id) is not None:
            candidates[file_id] = prints.find(hash_of[file_id])
            prints.add(file_id, hash_of[file_id])
    asked = [file_id for near in candidates.items() if near[1] for file_id in (near[0], *near[1])]
    kept = context.store.read("near", context.media, pa.array(asked, pa.string())).to_pylist()
    seen = {row["file_id"]: Print(row["near_hash"], row["near_ratio"], row["near_thumbnail"]) for row in kept}
    same_as: dict[str, str] = {}
    for file_id, near in candidates.items():
        # A file that was given another's findings has none of its own to give.
        # Nor has one whose print was lost since.
        others = [other for other in near if other not in same_as and other in seen and file_id in seen]
        found = next((other for other in others if look_same(seen[file_id], seen[other])), None)
        if found is not None:
            same_as[file_id] = found
    rows = [
        {"file_id": one, "same_as": other, "same_checked": int(one[:8], 16) % CHECKED_ONE_IN == 0}
        for one, other in same_as.items()
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema("same"))


def _fully_known(prints: pa.Table, context: ExtractionContext) -> pa.Table:
    """Return the rows of pictures in which every stage has looked."""
    ids = prints["file_id"]
    missing = [context.store.missing("media", context.media, ids)]
    missing += [context.store.missing(name, fingerprint, ids) for name, fingerprint in context.fingerprints.items()]
    return prints.filter(pc.invert(pc.is_in(ids, pa.concat_arrays(missing))))
