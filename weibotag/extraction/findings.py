"""What was found in the pictures of posts, from the store; what was lost there is looked at again, or has its reason."""

import logging
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.jobs import PictureTask
from weibotag.extraction.reposts import take_back
from weibotag.extraction.schedule import look_at
from weibotag.runtime.run_folder import Run
from weibotag.vision.face_gallery import name_faces, open_gallery

LOST = "what was found in it was lost from the store, and again after a second look: check the disk of the store"

log = logging.getLogger(__name__)


def read_findings(
    run: Run, links: pa.Table, context: ExtractionContext, stages: Sequence[str]
) -> tuple[pa.Table, pa.Table, dict[str, pa.Table]]:
    """Return links, the media rows of their files, and what each of some stages found in their frames, by stage.

    All is in the schema of its table, faces with their names by the gallery. Files whose findings the store had and has no
    more are looked at again, once; what then is still lacking is a fault in the context's stats. A link of a file that was
    given the findings of another bears its own id again where the other's are lost and the run does not have that file.
    """
    media, found = _read(links, context, stages)
    lost = _find_lost(links, media, found, context)
    if not lost:
        return links, media, found
    log.warning("findings of %d pictures were lost from the store; they are looked at again", len(lost))
    paths = _find_paths(run, lost)
    if lost.keys() - paths.keys():
        links = take_back(run, links, pa.array(sorted(lost.keys() - paths.keys()), pa.string()))
        lost = _find_lost(links, *_read(links, context, stages), context)
        paths = _find_paths(run, lost)
    context.store.prepare(context.tables)
    known = set(media["file_id"].to_pylist())
    tasks = [PictureTask(paths[one], one, names or list(context.stages), one in known) for one, names in lost.items()]
    look_at(run, tasks, context)
    media, found = _read(links, context, stages)
    for one in _find_lost(links, media, found, context, even_failed=True).keys() & lost.keys():
        context.stats.fail(PictureTask(paths[one], one), context.stats.unseen.get(one, LOST))
    return links, media, found


def _read(links: pa.Table, context: ExtractionContext, stages: Sequence[str]) -> tuple[pa.Table, dict[str, pa.Table]]:
    media = context.store.read("media", context.media, links["file_id"].drop_null())
    frames = media.filter(pc.is_null(media["media_error"]))["media_id"]
    found = {name: context.store.read(name, context.fingerprints[name], frames) for name in stages}
    if "faces" in found and context.pipeline.gallery is not None:
        found["faces"] = name_faces(found["faces"], open_gallery(context.pipeline.gallery))
    return media, found


def _find_lost(
    links: pa.Table,
    media: pa.Table,
    found: Mapping[str, pa.Table],
    context: ExtractionContext,
    even_failed: bool = False,
) -> dict[str, list[str]]:
    """Return the files that were looked at and of which something is lacking, with the stages of which it is.

    No stages: all. A file that could not be looked at is none of them, unless `even_failed`.
    """
    stats = context.stats
    if stats.late or (context.partial and (stats.coverage is None or not context.store.losses)):
        return {}
    frames = media.filter(pc.is_null(media["media_error"]))
    lost: dict[str, list[str]] = {}
    files = pc.unique(links["file_id"].drop_null())
    for file_id in files.filter(pc.invert(pc.is_in(files, media["file_id"]))).to_pylist():
        lost[file_id] = []
    for name, table in found.items():
        lacking = frames.filter(pc.invert(pc.is_in(frames["media_id"], table["media_id"])))["file_id"]
        for file_id in pc.unique(lacking).to_pylist():
            lost.setdefault(file_id, []).append(name)
    if not lost:
        return {}
    if context.partial:
        lost = _keep_known(lost, context)
    return lost if even_failed else {one: names for one, names in lost.items() if one not in stats.unseen}


def _keep_known(lost: Mapping[str, list[str]], context: ExtractionContext) -> dict[str, list[str]]:
    """Return those files and stages that were known to the run, which looks at some pictures only."""
    coverage = context.stats.coverage
    assert coverage is not None
    places = pc.index_in(pa.array(lost, pa.string()), coverage.file_ids)
    kept: dict[str, list[str]] = {}
    for (file_id, names), place in zip(lost.items(), places.to_pylist(), strict=True):
        if place is None or not coverage.decoded[place]:
            continue
        bits = int(coverage.bits[place])
        known = [name for number, name in enumerate(context.fingerprints) if bits >> number & 1]
        own = [name for name in names or known if name in known]
        if own:
            kept[file_id] = own
    return kept


def _find_paths(run: Run, file_ids: Mapping[str, object]) -> dict[str, str]:
    """Return where the run found these files; none for one that only an earlier run had."""
    paths: dict[str, str] = {}
    wanted = pa.array(list(file_ids), pa.string())
    for part in run.list_parts("links"):
        links = run.read("links", part, ["path", "file_id"])
        own = links.filter(pc.is_in(links["file_id"], wanted))
        paths |= dict(zip(own["file_id"].to_pylist(), own["path"].to_pylist(), strict=True))
    return paths
