"""Pictures of posts from the web into a folder, without looking at them."""

from collections import Counter
from time import perf_counter

from typing_extensions import TypedDict

from weibotag.extraction.ingest import list_names
from weibotag.extraction.pipeline_files import read_pipeline
from weibotag.extraction.requests import FetchRequest
from weibotag.extraction.settings import Pipeline
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.vision.media.fetch import fetch_pictures
from weibotag.vision.media.fetched import FetchedFolder
from weibotag.vision.media.pictures import MediaLimits

# Posts whose pictures are fetched together.
ROWS = 20_000


class FetchSummary(TypedDict):
    """Web addresses of the posts: all, asked for now, there (`ok`), refused, failed; bytes that came; the first failure."""

    addresses: int
    asked: int
    ok: int
    refused: int
    failed: int
    bytes: int
    first: str | None
    rejects: int
    seconds: float
    out: str


def fetch_posts(request: FetchRequest) -> FetchSummary:
    """Fetch what the posts' web addresses name; return what came of them."""
    started = perf_counter()
    asked = request.pipeline
    pipeline = asked if isinstance(asked, Pipeline) else read_pipeline(asked)
    more = {name: (*getattr(pipeline.web, name), *getattr(request, name)) for name in ("headers", "allow_network")}
    web, limits = pipeline.web.model_copy(update=more), MediaLimits(**pipeline.media.model_dump())
    folder, status = FetchedFolder(request.out), dict[str, str]()
    first = None
    with Rejects() as rejects:
        for table in read_posts(request.source, rejects, ROWS):
            for one in fetch_pictures(list_names(table), folder, web, limits, quiet=request.quiet).values():
                status[one.url] = one.status
                first = first or (f"{one.url}: {one.error}" if one.status == "failed" else None)
    counts = Counter(status.values())
    return {
        "addresses": len(status),
        "asked": len(folder.tried),
        "ok": counts["ok"],
        "refused": counts["refused"],
        "failed": counts["failed"],
        "bytes": folder.size,
        "first": first,
        "rejects": rejects.count,
        "seconds": round(perf_counter() - started, 3),
        "out": str(request.out),
    }
