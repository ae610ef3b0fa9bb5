"""One file from the network: resumed where it stopped, checked, whole or absent."""

import os
import ssl
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from weibotag import __version__
from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of, sync_folder
from weibotag.core.progress import bar

TIMEOUT_SECONDS = 30
CHUNK = 1 << 18
NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def download(url: str, target: Path, sha256: str, size: int, place: Path) -> None:
    """Fetch `url`, of `size` bytes, into the file `target`, unless it is there by now; many processes may ask at once.

    What arrived before a connection broke stays in a hidden part beside `target`, and is gone on from, now or by the next
    call. A file of another hash is thrown away. Raises RequestError with one line that says what to do: where the network
    can't be reached, to put the file at `place`.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return
        if length_of(part) > size:
            part.unlink()
        while (before := length_of(part)) < size:
            try:
                receive(url, part, size)
            except NETWORK as error:
                if length_of(part) > before:
                    continue
                cause = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
                reason = " ".join(str(cause).split()) or type(cause).__name__
                raise RequestError(
                    f"{target.name} can't be downloaded ({reason}): try again, which goes on where this stopped, "
                    f"or fetch {url} elsewhere and put it at {place}"
                ) from error
        found = sha256_of(part)
        if found != sha256:
            part.unlink()
            raise RequestError(
                f"{url} gave a file of sha256 {found}, expected {sha256}: thrown away; try again, "
                f"or put the right file at {place}"
            )
        os.replace(part, target)
        sync_folder(target.parent)


def receive(url: str, part: Path, size: int) -> None:
    """Append to `part` what one connection gives; raises what is in `NETWORK`, before that for a file of another size."""
    done = length_of(part)
    headers = {"User-Agent": f"weibotag/{__version__}"} | ({"Range": f"bytes={done}-"} if done else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer, part.open("ab") as file:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:
            done = 0
        offered = done + int(answer.headers.get("Content-Length") or size - done)
        if offered != size:
            raise URLError(f"it offers {offered:,} bytes instead of {size:,}: another file, or the page of a proxy")
        file.truncate(done)
        with bar(size, f"{part.name.strip('.').removesuffix('.part')}, bytes") as counted:
            counted.advance(done)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                counted.advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if length_of(part) < size:
        raise ConnectionError(f"the connection ended after {length_of(part):,} of {size:,} bytes")


def length_of(part: Path) -> int:
    """Return the size of a file in bytes, 0 when there is none."""
    return part.stat().st_size if part.exists() else 0
