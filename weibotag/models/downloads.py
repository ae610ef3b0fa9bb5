"""One file from the network: resumed where it stopped, checked, whole or absent."""

import os
import ssl
from hashlib import file_digest
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from weibotag import __version__
from weibotag.errors import RequestError
from weibotag.files import sync_folder
from weibotag.progress import bar

TIMEOUT_SECONDS = 30
CHUNK = 1 << 18
NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def download(url: str, target: Path, sha256: str, size: int | None, place: Path) -> None:
    """Fetch `url` into the file `target`, unless it is there by now; many processes may ask for the same at once.

    What arrived before a connection broke stays in a hidden part beside `target`, and is gone on from, now or by the next
    call. A file of another size (bytes) or hash is thrown away. Raises RequestError with one line that says what to do:
    where the network can't be reached, to put the file at `place`.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return
        if not (part.exists() and part.stat().st_size == size):
            try:
                receive_all(url, part, size)
            except NETWORK as error:
                raise RequestError(
                    f"{target.name} can't be downloaded ({explain(error)}): try again, which goes on where this stopped, "
                    f"or fetch {url} elsewhere and put it at {place}"
                ) from error
        length, found = part.stat().st_size, measure(part)
        if found != sha256 or length != (size or length):
            part.unlink()
            whole = "" if size is None else f"{size:,} bytes, "
            raise RequestError(
                f"{url} gave {length:,} bytes, sha256 {found}, expected {whole}sha256 {sha256}: thrown away; "
                f"try again, or put the right file at {place}"
            )
        os.replace(part, target)
        sync_folder(target.parent)


def receive_all(url: str, part: Path, size: int | None) -> None:
    """Fetch `url` into `part`, over as many connections as it takes, as long as each of them brings something new."""
    longest = length_of(part)
    while True:
        try:
            return receive(url, part, size)
        except NETWORK as error:
            code = error.code if isinstance(error, HTTPError) else None
            if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
                # The part is longer than the file: it is one of another file.
                part.unlink()
            elif length_of(part) <= longest:
                raise
            longest = length_of(part)


def receive(url: str, part: Path, size: int | None) -> None:
    """Append to `part` what one connection gives from its end on; from the start, where the server knows no ranges.

    Raises what is in `NETWORK`: also for a file of another size than `size`, before the part is touched.
    """
    done = length_of(part)
    headers = {"User-Agent": f"weibotag/{__version__}"} | ({"Range": f"bytes={done}-"} if done else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer, part.open("ab") as file:
        resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
        coming = answer.headers.get("Content-Length")
        whole = int(coming) + (done if resumed else 0) if coming else size
        if whole != size and size is not None:
            raise URLError(f"it offers {whole:,} bytes instead of {size:,}: another file, or the page of a proxy")
        if not resumed:
            file.truncate(0)
            done = 0
        with bar(whole, f"{part.name.strip('.').removesuffix('.part')}, bytes") as counted:
            counted.advance(done)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                counted.advance(len(chunk))
        if whole is not None and file.tell() < whole:
            raise ConnectionError(f"the connection ended after {file.tell():,} of {whole:,} bytes")
        os.fsync(file.fileno())


def length_of(part: Path) -> int:
    """Return the size of a file in bytes, 0 when there is none."""
    return part.stat().st_size if part.exists() else 0


def explain(error: Exception) -> str:
    """Return in one line why the network failed."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return " ".join(str(cause).split()) or type(error).__name__


def measure(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
