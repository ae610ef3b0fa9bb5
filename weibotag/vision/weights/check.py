"""Whether the weights that are here are what they should be."""

import re
from dataclasses import dataclass
from pathlib import Path

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of
from weibotag.vision.weights.catalogue import at_hand, cache_folder, explain_unknown, find_model, known_hash, split_hash
from weibotag.vision.weights.table import match

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class State:
    """What was found under a name: `path` or None, its sha256 (of a folder None), and in `fault` what is wrong and to do."""

    path: Path | None
    sha256: str | None = None
    fault: str | None = None


def examine(name: str) -> State:
    """Measure the weights called `name`, without downloading; RequestError for a name neither known nor at hand."""
    plain, given = split_hash(name)
    path = at_hand(name)
    if path is None and not match(plain):
        raise RequestError(explain_unknown(plain))
    if path is None:
        return State(None, fault=f"not here: weibotag models pull {name}")
    if path.is_dir():
        broken = next((file for file, expected in list_hashes(plain, path) if sha256_of(file) != expected), None)
        fault = f"{broken} is damaged: remove {broken.resolve()} and pull {name} again" if broken else None
        return State(path, fault=fault)
    found, expected = sha256_of(path), given or known_hash(path.name)
    if expected is None or found == expected:
        return State(path, found)
    remedy = "pull it again" if path.parent == cache_folder() else "put the right file there"
    return State(path, found, f"{path} has sha256 {found}, expected {expected}: damaged, or another file: {remedy}")


def list_hashes(name: str, folder: Path) -> list[tuple[Path, str]]:
    """Return the files of a snapshot whose sha256 is known, with that: from the table, and from the hub's own cache."""
    rows = [(folder / "model.safetensors", model.sha256) for model in match(name) if model.sha256 is not None]
    known = {path: sha256 for path, sha256 in rows if path.is_file()}
    for path in sorted(folder.rglob("*")):
        # In the cache of the hub a large file is a link to one that is named by its sha256.
        if path.is_symlink() and path.is_file() and DIGEST.fullmatch(path.resolve().name):
            known.setdefault(path, path.resolve().name)
    return list(known.items())


def pull(name: str, allow_pickle: bool = False) -> Path:
    """Return the weights called `name`, checked: downloaded when they are not at hand, or are damaged in the cache."""
    if at_hand(name) is not None:
        state = examine(name)
        if state.fault is not None:
            if state.path is None or state.path.parent != cache_folder():
                raise RequestError(state.fault)
            state.path.unlink()
    return find_model(name, allow_pickle)
