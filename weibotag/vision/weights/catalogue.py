"""Weights by name: at hand in a folder, in the cache or in a package, else fetched now; and whether they are undamaged."""

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from glob import glob
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import platformdirs

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of
from weibotag.vision.weights.fetch import download, fetch_snapshot, find_snapshot

HUB, TIMM = "hf:", "timm:"
PACKAGE = "package:"
VARIABLE = "WEIBOTAG_MODELS"
# What unpickles when it is loaded, or carries code (TorchScript, TensorRT).
PICKLES = frozenset(
    (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".pdparams", ".ts", ".torchscript", ".engine")
)
REFUSED = (
    "is a pickle, which can run code when it is loaded: choose .safetensors or .onnx, or allow it "
    "(--allow-pickle, in a pipeline allow_pickle = true)"
)
HASH = re.compile(r"(?!hf:)(?P<name>.+)#sha256=(?P<sha256>[0-9a-fA-F]{64})")
REPOSITORY = re.compile(r"hf:(?P<repository>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")
DIGEST = re.compile(r"[0-9a-f]{64}")

_may_fetch = ContextVar("may_fetch", default=True)


@dataclass(frozen=True)
class Model:
    """One row of the table.

    `name` is a file name, or hf:owner/name. `source` is an https URL, hf:owner/name@revision, or package:folder for a file
    that an installed package carries. `size` in bytes and `sha256` are those of the file; of a hub model, those of its
    model.safetensors. `extra` is what else must be installed to use it.
    """

    name: str
    stage: str
    source: str
    size: int | None
    sha256: str | None
    licence: str
    extra: str | None = None
    note: str = ""


def read_table() -> Iterator[Model]:
    """Yield the rows of the file."""
    # OpenCV's files lie in Git LFS, which answers at media.githubusercontent.com. Of Chinese-CLIP the main branch has
    # pickles only; its revision here is the conversion that the hub's own bot offers.
    with Path(__file__).with_name("table.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            size = int(row.pop("size") or 0) or None
            yield Model(**row | {"size": size, "sha256": row["sha256"] or None, "extra": row["extra"] or None})


TABLE = tuple(read_table())


def match(name: str) -> list[Model]:
    """Return the rows that are called `name`, or that a pattern like face_detection_yunet*.onnx fits; the newest first."""
    found = [model for model in TABLE if name == model.name or fnmatchcase(model.name, name)]
    return sorted(found, key=lambda model: model.name, reverse=True)


@contextmanager
def without_fetching() -> Iterator[None]:
    """Let `find_model` download nothing inside the block: what is not at hand is refused, in one line."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


def find_model(name: str, allow_pickle: bool = False) -> Path:
    """Return the file or folder of the weights called `name`, which is downloaded when it is not at hand.

    `name` is a path; a file name or pattern (the last by name wins) in the folder $WEIBOTAG_MODELS, in the cache, or in the
    table; or hf:owner/name[@revision], which is a folder. It may end in #sha256=HEX, which the file must have then. A pickle
    is only returned with `allow_pickle` and a known hash: one of the table, or in the name. Raises RequestError with one
    line that says which file to put where, MissingExtraError when the hub is asked for and its library is absent.
    """
    path = at_hand(name)
    if path is None and not _may_fetch.get():
        raise RequestError(f"{name}: not here; fetch it with: weibotag models pull '{name}' (or put it into ${VARIABLE})")
    path = path or fetch(name, allow_pickle)
    check_trust(path, name, allow_pickle)
    return path


def at_hand(name: str) -> Path | None:
    """Return what `find_model` would return, as far as it is on this machine, or None; nothing is downloaded or checked."""
    plain, _ = split_hash(name)
    if plain.startswith(HUB):
        return find_snapshot(*split_repository(plain), folders())
    if os.path.exists(path := os.path.expanduser(plain)):
        return Path(path)
    places = chain((look(folder, plain) for folder in folders()), map(package_path, match(plain)))
    return next(filter(None, places), None)


def fetch(name: str, allow_pickle: bool = False) -> Path:
    """Download the weights called `name`, a name of the table or of the hub; return the file or folder."""
    plain, _ = split_hash(name)
    if plain.startswith(HUB):
        return fetch_snapshot(plain, *split_repository(plain), folders()[0])
    model = next((model for model in match(plain) if "://" in model.source), None)
    if model is None or model.size is None or model.sha256 is None:
        raise RequestError(explain_unknown(plain))
    if is_pickle(model.name) and not allow_pickle:
        raise RequestError(f"{model.name} {REFUSED}")
    target = cache_folder() / model.name
    download(model.source, target, model.sha256, model.size, folders()[0] / model.name)
    return target


def check_trust(path: Path, name: str, allow_pickle: bool) -> None:
    """Raise RequestError for a pickle that is not allowed, one of unknown hash, or a file of another hash than is known."""
    plain, given = split_hash(name)
    if is_pickle(path.name) and not path.is_dir():
        if not allow_pickle:
            raise RequestError(f"{path} {REFUSED}")
    elif given is None and not is_tensors(path.name):
        return
    found, expected = hash_of(path), given or known_hash(path.name)
    if expected is None:
        raise RequestError(f"{path} is a pickle of unknown sha256: if you trust it, name it {plain}#sha256={found}")
    if found != expected:
        raise RequestError(f"{path} has sha256 {found}, expected {expected}: it is damaged, or another file")


def pin(name: str) -> str:
    """Return weights as others can ask for them: by a name of the table or the hub, else by path with #sha256=HEX.

    `name` may be several, with commas between. A name that nothing here has stays as it is.
    """
    if len(several := split_names(name)) > 1:
        return ",".join(map(pin, several))
    plain, given = split_hash(name)
    path = None if given is not None or plain.startswith((HUB, TIMM)) or is_public(plain) else at_hand(plain)
    if path is None or not (path.is_dir() or path.is_file()):
        return name
    found = hash_of(path)
    known = path.is_file() and known_hash(path.name) == found
    return path.name if known else f"{path.absolute()}#sha256={found}"


def refuse_unpinned(name: str) -> None:
    """Raise RequestError for weights that a stranger may not ask for: what `pin` returns, and no pickles, is allowed.

    What is neither in the table nor has a hash must be here already: it is not fetched.
    """
    for one in split_names(name):
        plain, given = split_hash(one)
        if is_pickle(plain):
            raise RequestError(f"{plain} is a pickle, which can run code when it is loaded")
        if is_public(plain):
            continue
        if not plain.startswith((HUB, TIMM)) and given is None:
            raise RequestError(f"{plain} is neither in the table of weights nor has it a #sha256=")
        # On Windows a name of another machine would be asked for with the user's password.
        path = None if plain.startswith(("//", "\\\\")) else at_hand(plain.replace(TIMM, f"{HUB}timm/"))
        if path is None or not (path.is_file() or path.is_dir()):
            raise RequestError(f"{plain} is not here")


def split_names(name: str) -> list[str]:
    """Return the names of weights in a setting, several of which have commas between."""
    return [name] if os.path.exists(name.partition("#")[0]) else [one.strip() for one in name.split(",")]


def is_public(plain: str) -> bool:
    """Tell whether a name without a hash is one of the table, not one of a file that lies about."""
    return any(model.name == plain for model in TABLE) and not os.path.exists(plain)


def hash_of(path: Path) -> str:
    """Return the sha256 of a file of weights; of a folder, that of the names and hashes of the files below it."""
    if path.is_file():
        return sha256_of(path)
    names = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
    listed = "".join(f"{sha256_of(path / name)} {name}\n" for name in names if not name.startswith("."))
    return hashlib.sha256(listed.encode()).hexdigest()


def is_pickle(name: str) -> bool:
    """Return whether a file of that name can run code when it is loaded."""
    return Path(name).suffix.lower() in PICKLES and not is_tensors(name)


def is_tensors(name: str) -> bool:
    """Return whether a file of that name must have the hash of the table, and is read as tensors alone."""
    file = Path(name).name
    return file.endswith(".pth") and any(model.name == file and model.source.startswith(PACKAGE) for model in TABLE)


def known_hash(file: str) -> str | None:
    """Return the sha256 that the table knows for a file of that name, or None."""
    return next((model.sha256 for model in TABLE if model.name == file), None)


def split_hash(name: str) -> tuple[str, str | None]:
    """Return a name without #sha256=HEX, and that hash (lower case) or None; RequestError when it is no sha256."""
    if "#sha256=" not in name:
        return name, None
    found = HASH.fullmatch(name)
    if found is None:
        raise RequestError(f"{name!r}: expected FILE#sha256= and 64 hexadecimal digits (a hub model is pinned by @commit)")
    return found["name"], found["sha256"].lower()


def split_repository(name: str) -> tuple[str, str | None]:
    """Return repository and revision (given, or of the table) of hf:owner/name[@revision]; RequestError for another form."""
    found = REPOSITORY.fullmatch(name)
    if found is None:
        raise RequestError(f"{name!r} is no model of the hub: expected hf:owner/name or hf:owner/name@revision")
    known = [row.source.partition("@")[2] for row in match(name)]
    return found["repository"], found["revision"] or next(iter(known), None)


def folders() -> list[Path]:
    """Return where weights are looked for: $WEIBOTAG_MODELS where it is set, and the cache."""
    given = os.environ.get(VARIABLE)
    return [Path(given), cache_folder()] if given else [cache_folder()]


def cache_folder() -> Path:
    """Return where downloads go: a folder in the user's cache."""
    return platformdirs.user_cache_path("weibotag") / "models"


def look(folder: Path, name: str) -> Path | None:
    """Return the file or folder `name` in `folder`, or the last by name of those that it fits as a pattern."""
    if not name or "\0" in name:
        return None
    if os.path.exists(folder / name):
        return folder / name
    found = sorted(glob(name, root_dir=folder))
    return folder / found[-1] if found else None


def package_path(model: Model) -> Path | None:
    """Return the file of a model that travels in a package, or None when it is none of these, or absent."""
    package, _, inner = model.source.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if model.source.startswith(PACKAGE) else None
    path = Path(spec.origin).parent / inner / model.name if spec is not None and spec.origin is not None else None
    return path if path is not None and path.is_file() else None


def explain_unknown(name: str) -> str:
    """Return the line for a name that is neither at hand nor in the table, with the nearest known one."""
    near = get_close_matches(name, [model.name for model in TABLE], n=1)
    hint = f"did you mean {near[0]}?" if near else "weibotag models list shows what is known"
    source = name.removesuffix(".onnx") + ".pt"
    if name.endswith(".onnx") and match(source):
        hint = (
            f"export it once: weibotag models pull {source} --allow-pickle prints a path, "
            "then yolo export model=PATH format=onnx dynamic=True"
        )
    folder = os.environ.get(VARIABLE)
    where = f"not in {folder} ({VARIABLE})" if folder else f"{VARIABLE} is not set"
    return f"no model {name!r}: no such file, {where}, and not in the table; {hint}"


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
