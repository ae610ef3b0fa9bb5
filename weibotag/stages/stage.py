"""What every stage promises, and the fingerprint that names its answers."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa
from pydantic import BaseModel

from weibotag.errors import RequestError

FINGERPRINT_LENGTH = 12


class Stage(Protocol):
    """A step that adds columns: the same rows in the same order, each answer a function of its own row alone.

    A row that can't be used gets nulls and a reason in `<name>_error`; an exception means that the part failed.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    key: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    adds: ClassVar[pa.Schema]

    @property
    def Config(self) -> type[BaseModel]:
        """The settings: a pydantic model that refuses what it does not know, a class inside the stage's own."""

    def __init__(self, config: Any) -> None:
        """Keep the settings; cheap, and what results can be pickled."""

    def fingerprint(self) -> str:
        """Return the name of this stage's answers without loading the model."""

    def open(self) -> None:
        """Load the model, once per worker."""

    def process(self, table: pa.Table) -> pa.Table:
        """Return the key and the columns of `adds`, one row for each row of `table`, in order."""

    def close(self) -> None:
        """Let the model go."""


def fingerprint(name: str, version: int, config: BaseModel, weights: Iterable[Path], reads: Iterable[str] = ()) -> str:
    """Return 12 hex digits that change with the stage, its settings, its weights or the fingerprints of what it reads.

    Raises RequestError when a file of weights is absent.
    """
    parts = {
        "name": name,
        "version": version,
        "config": config.model_dump(mode="json"),
        "weights": [hash_weights(path) for path in weights],
        "reads": sorted(reads),
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_LENGTH]


def hash_weights(path: Path) -> str:
    """Return the sha256 of a file of weights, hex; a file is read again only when its size or time changed."""
    try:
        state = path.stat()
    except OSError as error:
        raise RequestError(f"{path}: found no weights ({error.strerror}): install the package again") from error
    return _hash_state(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_state(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
