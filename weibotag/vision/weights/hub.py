"""Snapshots of the Hugging Face hub: folders with safetensors or ONNX, never with pickles."""

import fnmatch
import re
from pathlib import Path

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.vision.weights.downloads import TIMEOUT_SECONDS
from weibotag.vision.weights.table import match

NAME = re.compile(r"hf:(?P<repository>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")
# Weights that load without running code, the preferred kind first; an .onnx may have its numbers in a file beside it.
WEIGHTS = ("*.safetensors", "*.onnx*")
SETTINGS = ("*.json", "*.txt", "*.model", "*.yml")


def at_hand(name: str, folders: list[Path]) -> Path | None:
    """Return the folder of hf:owner/name in one of `folders` or in the hub's own cache, or None."""
    repository, revision = resolve(name)
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


def fetch(name: str, folder: Path) -> Path:
    """Download a snapshot; return its folder. Raises RequestError that says what to put into `folder`, MissingExtraError."""
    repository, revision = resolve(name)
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
        weights = next((pattern for pattern in WEIGHTS if fnmatch.filter(files, pattern)), None)
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


def resolve(name: str) -> tuple[str, str | None]:
    """Return repository and revision (given, or of the table) of hf:owner/name[@revision]; RequestError for another form."""
    found = NAME.fullmatch(name)
    if found is None:
        raise RequestError(f"{name!r} is no model of the hub: expected hf:owner/name or hf:owner/name@revision")
    known = [row.source.partition("@")[2] for row in match(name)]
    return found["repository"], found["revision"] or next(iter(known), None)


def holds(folder: Path, pattern: str) -> bool:
    """Return whether a file of that pattern lies in a folder, or below it."""
    return next(folder.rglob(pattern), None) is not None
