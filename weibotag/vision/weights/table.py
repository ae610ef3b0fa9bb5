"""The models that weibotag knows by name: where they come from, how large they are, their hashes and licences."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

HUB = "hf:"
PACKAGE = "package:"


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


def _read_table() -> Iterator[Model]:
    # OpenCV's files lie in Git LFS, which answers at media.githubusercontent.com. Of Chinese-CLIP the main branch has
    # pickles only; its revision here is the conversion that the hub's own bot offers.
    with Path(__file__).with_name("table.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            size = int(row.pop("size") or 0) or None
            yield Model(**row | {"size": size, "sha256": row["sha256"] or None, "extra": row["extra"] or None})


TABLE = tuple(_read_table())


def match(name: str) -> list[Model]:
    """Return the rows that are called `name`, or that a pattern like face_detection_yunet*.onnx fits; the newest first."""
    found = [model for model in TABLE if name == model.name or fnmatchcase(model.name, name)]
    return sorted(found, key=lambda model: model.name, reverse=True)
