"""Weights from the network: single files, resumed where they stopped and checked, and snapshots of the Hugging Face hub."""

import os
import ssl
from collections.abc import Sequence
from fnmatch import filter as fit
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from weibotag.core import __version__
from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.core.files import sha256_of, sync_folder
from weibotag.core.progress import bar

TIMEOUT_SECONDS = 30
CHUNK = 1 << 18
NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
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
        part.touch()
        if part.stat().st_size > size:
            os.truncate(part, 0)
        while (before := part.stat().st_size) < size:
            try:
                receive(url, part, size)
            except NETWORK as error:
                if part.stat().st_size > before:
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
    done = part.stat().st_size
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
