"""Weights from the network: single files, resumed where they stopped and checked, and snapshots of the Hugging Face hub."""

import os
import re
import ssl
import time
from collections.abc import Sequence
from fnmatch import filter as fit
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from weibotag.core import __version__
from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.core.files import open_to_append, sha256_of, sync_folder
from weibotag.core.progress import bar

TIMEOUT_SECONDS = 30
# What a whole download may take: this, and the time of its bytes at the slowest pace that is waited for.
LEAST_SECONDS, LEAST_BYTES_PER_SECOND = 120.0, 20_000
CHUNK = 1 << 18
# A redirection to an address that is none is a ValueError.
NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError, ValueError)
# Weights that load without running code, the preferred kind first; an .onnx may have its numbers in a file beside it.
WEIGHTS = ("*.safetensors", "*.onnx*")
SETTINGS = ("*.json", "*.txt", "*.model", "*.yml")


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
        with open_to_append(part) as file:
            if file.tell() > size:
                file.truncate(0)
        seconds = LEAST_SECONDS + size / LEAST_BYTES_PER_SECOND
        end = time.monotonic() + seconds
        while (before := part.stat().st_size) < size:
            try:
                receive_until(end, url, part, size)
            except NETWORK as error:
                if part.stat().st_size > before and time.monotonic() < end:
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


def receive_until(end: float, url: str, part: Path, size: int) -> None:
    """Do as `receive` does; raises TimeoutError when that takes longer than until `end` (monotonic)."""
    over, outcome = Event(), SimpleQueue[BaseException | None]()

    def work() -> None:
        try:
            receive(url, part, size, over)
            outcome.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            outcome.put(error)

    # Timeouts of sockets begin anew with every byte, and a server may drip its answer for years.
    Thread(target=work, daemon=True).start()
    try:
        error = outcome.get(timeout=max(0.0, end - time.monotonic()))
    except Empty:
        over.set()
        raise TimeoutError(f"it is slower than {LEAST_BYTES_PER_SECOND:,} bytes a second") from None
    if error is not None:
        raise error


def read_length(length: str | None) -> int | None:
    """Return what Content-Length says, or None without one; raises URLError for what is no number."""
    if length is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", length.strip()):
        raise URLError(f"its Content-Length is no number: {length[:40]!r}")
    return int(length)


def receive(url: str, part: Path, size: int, over: Event) -> None:
    """Append to `part` what one connection gives until `over` is set; raises what is in `NETWORK`.

    Nothing is taken of a file that says it has another size, and no more than `size` bytes of one that has more.
    """
    done = part.stat().st_size
    headers = {"User-Agent": f"weibotag/{__version__}"} | ({"Range": f"bytes={done}-"} if done else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer, open_to_append(part) as file:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:
            done = 0
        length = read_length(answer.headers.get("Content-Length"))
        offered = size if length is None else done + length
        if offered != size:
            raise URLError(f"it offers {offered:,} bytes instead of {size:,}: another file, or the page of a proxy")
        file.truncate(done)
        with bar(size, f"{part.name.strip('.').removesuffix('.part')}, bytes") as counted:
            counted.advance(done)
            # What is there, without waiting for all of it: whoever drips must not hold back the look at the clock.
            while (chunk := answer.read1(CHUNK)) and not over.is_set():
                done += len(chunk)
                if done > size:
                    raise URLError(f"it gives more than {size:,} bytes: another file, or the page of a proxy")
                file.write(chunk)
                counted.advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if (length := part.stat().st_size) < size:
        raise ConnectionError(f"the connection ended after {length:,} of {size:,} bytes")


def find_snapshot(repository: str, revision: str | None, folders: Sequence[Path]) -> Path | None:
    """Return the folder of a hub model in one of `folders` or in the hub's own cache, or None; nothing is downloaded."""
    for place in [folder / path for folder in folders for path in (repository, repository.rpartition("/")[2])]:
        if any(holds(place, weights) for weights in WEIGHTS):
            return place
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    for weights in WEIGHTS:
        patterns = [weights, *SETTINGS]
        try:
            place = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=patterns))
        except (OSError, ValueError):
            continue
        if holds(place, weights):
            return place
    return None


def fetch_snapshot(name: str, repository: str, revision: str | None, folder: Path) -> Path:
    """Download a snapshot without its pickles; return its folder, in the hub's own cache.

    Raises RequestError that says what to put into `folder`, MissingExtraError where the hub's library is absent.
    """
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtraError(name, "hf") from error
    # The hub's error is one of its HTTP library and one of the system: these two, and what its downloader raises.
    failures: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, ValueError, RuntimeError)
    page = f"{constants.ENDPOINT}/{repository}/tree/{revision or 'main'}"
    try:
        # Where there is no network the download itself would try for half a minute, and say so line by line.
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_SECONDS)
        files = [file.rfilename for file in info.siblings or []]
        weights = next((pattern for pattern in WEIGHTS if fit(files, pattern)), None)
        if weights is not None:
            return Path(snapshot_download(repository, revision=revision, allow_patterns=[weights, *SETTINGS]))
    except failures as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"{name} can't be downloaded ({reason}): fetch the .safetensors (or .onnx), .json, .txt, .model and .yml files "
            f"of {page} elsewhere and put them into {folder / repository}"
        ) from error
    raise RequestError(
        f"{name}: found no .safetensors or .onnx at {page}, and pickles are not taken from the hub: choose another"
    )


def holds(folder: Path, pattern: str) -> bool:
    """Return whether a file of that pattern lies in a folder, or below it."""
    return next(folder.rglob(pattern), None) is not None
