"""`weibotag fetch`: the pictures of posts that lie behind web addresses."""

from weibotag.cli.answer import Answer
from weibotag.cli.command import command
from weibotag.extraction.requests import FetchRequest


@command("fetch")
def fetch(request: FetchRequest) -> Answer:
    """Fetch the pictures that posts name by web addresses, for `weibotag tag POSTS --fetch DIR`.

    What is in the folder is not fetched again. fetched.log there says what came of each address.

    Example: weibotag fetch posts.csv -o pictures

    Example: weibotag fetch posts.csv -o pictures --header 'example.com Referer: https://example.com/'
    """
    from weibotag.workflows.fetch import fetch_posts

    found = fetch_posts(request)
    rejects = f", {found['rejects']:,} rows rejected" if found["rejects"] else ""
    came = f"{found['asked']:,} asked for now ({found['bytes'] / 1e6:,.1f} MB)"
    line = (
        f"{found['out']}: {found['addresses']:,} web addresses, {came}, {found['ok']:,} there, {found['refused']:,} refused"
    )
    fault = f"{found['failed']:,} could not be fetched; the same command tries them again; the first: {found['first']}"
    done = f"{line}{rejects}; {found['seconds']:.1f} s"
    return Answer(found, done, fault=fault, code=1) if found["failed"] else Answer(found, done)
