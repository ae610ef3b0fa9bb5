"""Input to a run: posts read once, into parts, and the files that they name."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import pyarrow as pa

from weibotag.core import __version__
from weibotag.core.errors import TooManyRejectsError
from weibotag.core.progress import bar
from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.jobs import HashedFiles, PictureTask, link_files
from weibotag.extraction.reposts import give_findings
from weibotag.features.plain_text import make_texts_plain
from weibotag.posts.passing import set_apart
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource, describe_input
from weibotag.posts.writer import find_format
from weibotag.runtime.ahead import work_ahead
from weibotag.runtime.run_folder import Plan, Run
from weibotag.vision.media.fetch import fetch_pictures
from weibotag.vision.media.fetched import FetchedFolder
from weibotag.vision.stage import FINGERPRINT_LENGTH

PART_ROWS = 20_000

log = logging.getLogger(__name__)


def open_run(
    command: str,
    source: PostsSource,
    out: str,
    context: ExtractionContext,
    folder: Path | None,
    asked: Mapping[str, object] | None,
) -> Run:
    """Take the run folder for a request that is all that the output depends on: `OUT.run` unless given; for stdout one
    in the store.

    `asked` is, ready for JSON, what the output depends on besides posts and pictures. Raises RequestError, before any work,
    for an output of an unknown kind.
    """
    find_format(Path(out))
    request = {
        "command": command,
        "version": __version__,
        "input": describe_input(source),
        "tagger": asked,
        **context.request(),
        "out": out,
    }
    if folder is None and out == "-":
        # Beside no output: in the store, by who asks for what, so that two pipes don't meet and the same one goes on.
        digest = hashlib.sha256(json.dumps([request, os.getuid()], sort_keys=True).encode()).hexdigest()
        folder = context.store.make("runs") / digest[:FINGERPRINT_LENGTH]
    folder = folder or Path(f"{out}.run")
    run = Run.open(folder, request)
    if run.resumed and not context.quiet:
        log.warning("%s: going on where the last run stopped", run.folder)
    return run


def ingest(run: Run, source: PostsSource, max_rejects: int | None, quiet: bool, kind: str = "tags") -> list[str]:
    """Read the posts into parts of the run, once; return the names of the parts, which are those of `kind` too.

    Raises TooManyRejectsError when more rows than `max_rejects` can't be used.
    """
    if run.plan is not None and kind in run.plan.parts:
        _refuse_rejects(run, run.plan.rejects, max_rejects)
        return list(run.plan.parts[kind])
    names: list[str] = []
    with Rejects(run.rejects_path) as rejects, bar(None, "reading posts", quiet) as progress:
        for table in work_ahead(read_posts(source, rejects, PART_ROWS)):
            names.append(f"{len(names):05d}")
            run.write("posts", names[-1], table)
            progress.advance(len(table))
    _refuse_rejects(run, rejects.count, max_rejects)
    run.begin(Plan({kind: names}, rejects.count))
    return names


def link(run: Run, parts: Iterable[str], context: ExtractionContext) -> None:
    """Find the files that posts name: a part of "links" for each part of posts.

    Pictures behind web addresses are fetched first where the pipeline says so; what failed is among the stats' faults.
    """
    known: HashedFiles = {}
    parts = list(parts)
    folder = context.pipeline.fetch
    fetched = None if folder is None else FetchedFolder(folder)
    again = set() if fetched is None else {part for part in parts if _fetch(run, part, fetched, context)}
    with bar(None, "finding pictures", context.quiet) as progress:
        for part in parts:
            if run.done("links", part) and part not in again:
                continue
            posts = run.read("posts", part, ["post_id", "images", "videos", "folder"])
            links = link_files(posts, context.limits, known, context.pipeline.media_root, fetched)
            progress.advance(len(links))
            run.write("links", part, links)


def _fetch(run: Run, part: str, folder: FetchedFolder, context: ExtractionContext) -> bool:
    """Fetch the pictures of a part's posts; return whether any of them is behind a web address."""
    found = fetch_pictures(
        list_names(run.read("posts", part, ["images", "videos"])),
        folder,
        context.pipeline.web,
        context.limits,
        quiet=context.quiet,
        is_late=context.is_late,
    )
    for one in found.values():
        if one.status == "failed" and one.url in folder.tried:
            context.stats.fail(PictureTask(one.url, one.url), str(one.error))
    return bool(found)


def list_names(posts: pa.Table) -> list[str]:
    """Return the distinct names of pictures and clips of posts."""
    names = (posts[name].combine_chunks().flatten().unique().to_pylist() for name in ("images", "videos"))
    return list(dict.fromkeys(chain.from_iterable(names)))


def read_part_posts(run: Run, part: str) -> pa.Table:
    """Return the posts of a part, their texts plain, the columns that pass through set apart."""
    return set_apart(make_texts_plain(run.read("posts", part)))


def read_links(run: Run, part: str) -> pa.Table:
    """Return the links of a part; where reposts are sought, they bear the id of the file whose findings they are given."""
    return give_findings(run.read("links", part), run)


def count_posts(run: Run, parts: Iterable[str]) -> int:
    """Return how many posts some parts have."""
    return sum(run.count_rows("posts", part) for part in parts)


def _refuse_rejects(run: Run, count: int, most: int | None) -> None:
    if most is not None and count > most:
        raise TooManyRejectsError(f"{count:,} rows can't be used, --max-rejects allows {most:,}; see {run.rejects_path}")
