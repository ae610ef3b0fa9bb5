"""A trained tagger in a folder: data files only, nothing pickled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.core.errors import ModelError, WeibotagError
from weibotag.core.files import replace_folder, sha256_of, write_json
from weibotag.features.visual_codes import Codebook
from weibotag.scoring.calibration import Calibration
from weibotag.taggers.cascade.policy import Cascade
from weibotag.taggers.ensemble import TextTagger
from weibotag.taggers.fasttext import FastTagger, load_network
from weibotag.taggers.linear_tree import JointTagger
from weibotag.taggers.network import FusedTagger
from weibotag.taxonomy.tree import Taxonomy, load, save_csv

FORMAT = 1
ABOUT, NETWORK, DECISIONS, CODES, TAXONOMY, KEYWORDS = (
    "model.json",
    "fasttext.bin",
    "decisions.safetensors",
    "codes.safetensors",
    "taxonomy.csv",
    "keywords.parquet",
)
# Folders of the parts that not every model has.
FUSED, TEXT, CASCADE, JOINT = "fused", "text", "cascade", "xmc"
# The routes that a model has, by the tagger that was trained; `train --tagger auto` leaves one of the first three.
ROUTES = {
    "fast": ("rules", "fast"),
    "xmc": ("rules", "xmc"),
    "average": ("rules", "fast", "average"),
    "fused": ("rules", "fast", "fused"),
    "cascade": ("rules", "fast", "fused", "text", "cascade"),
}


@dataclass(frozen=True)
class Model:
    """What training leaves: the tagger, a threshold per tag (float32), the codebook where pictures were there,
    the keywords learnt from the posts (columns keyword, score), and `about`: pipeline, fingerprints, metrics, versions.

    `fast` is absent where xmc alone was trained: calibration and thresholds are those of `joint` then. `fused` is there
    where a network was trained, `text` and `cascade` where a cascade was, `joint` where xmc was, if `load_model` was asked.
    """

    taxonomy: Taxonomy
    fast: FastTagger | None
    calibration: Calibration
    thresholds: np.ndarray
    codebook: Codebook | None
    keywords: pa.Table
    about: dict[str, Any]
    fused: FusedTagger | None = None
    text: TextTagger | None = None
    cascade: Cascade | None = None
    joint: JointTagger | None = None

    @property
    def tagger(self) -> FastTagger:
        """Return the fast tagger; raises ModelError where there is none."""
        if self.fast is None:
            raise ModelError("this model has no fast tagger: train with --tagger fast")
        return self.fast

    def save(self, folder: Path) -> None:
        """Write the model beside `folder` and put it there in one step; an older model at that place goes.

        Raises ModelError when something that is no model stands there.
        """
        from safetensors.numpy import save_file

        refuse_stranger(folder)
        with replace_folder(folder) as fresh:
            if self.fast is not None:
                self.fast.save(fresh / NETWORK)
            decisions = {
                "slope": self.calibration.slope,
                "offset": self.calibration.offset,
                "thresholds": self.thresholds.astype(np.float32),
            }
            save_file(decisions, fresh / DECISIONS)
            if self.codebook is not None:
                self.codebook.save(fresh / CODES)
            save_csv(self.taxonomy, fresh / TAXONOMY)
            pq.write_table(self.keywords, fresh / KEYWORDS)
            for name, part in ((FUSED, self.fused), (TEXT, self.text), (CASCADE, self.cascade), (JOINT, self.joint)):
                if part is not None:
                    (fresh / name).mkdir()
                    part.save(fresh / name)
            paths = sorted(path for path in fresh.rglob("*") if path.is_file())
            files = {path.relative_to(fresh).as_posix(): sha256_of(path) for path in paths}
            write_json(self.about | {"format": FORMAT, "taxonomy": self.taxonomy.digest, "files": files}, fresh / ABOUT)


def refuse_stranger(folder: Path) -> None:
    """Raise ModelError when a file, or a folder of something else than a model, stands where a model is to be written."""
    if folder.exists() and not (folder / ABOUT).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ModelError(f"{folder}: exists and is no model; give another folder with -o")


def read_about(folder: Path) -> dict[str, Any]:
    """Return model.json; raises ModelError when the folder holds no model of this format."""
    path = folder / ABOUT
    if not path.is_file():
        raise ModelError(f"{folder}: no model there (no {ABOUT}); make one with: weibotag train")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}): train again") from error
    if about.get("format") != FORMAT:
        raise ModelError(f"{path}: model format {about.get('format')!r}, expected {FORMAT}: train again")
    return about


def load_model(folder: Path, route: str = "fast") -> Model:
    """Read what a route of a model needs.

    Raises ModelError naming the file that is absent, damaged or not the one that was trained, or a route without a tagger.
    """
    from safetensors.numpy import load_file

    about = read_about(folder)
    for name, digest in about["files"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise ModelError(f"{path}: absent or not the file that was trained: train again")
    try:
        taxonomy = load(folder / TAXONOMY)
    except WeibotagError as error:
        raise ModelError(str(error)) from error
    check_route(folder, about, route)
    decisions = load_file(folder / DECISIONS)
    calibration = Calibration(decisions["slope"], decisions["offset"])
    fast = None
    if NETWORK in about["files"]:
        network = load_network(folder / NETWORK)
        fast = FastTagger(taxonomy, network, calibration, about["rules_share"], about["settings"]["spacing"])
    fused = FusedTagger(taxonomy, folder / FUSED) if route in ("fused", "cascade") else None
    text = TextTagger.load(folder / TEXT, taxonomy) if route in ("text", "cascade") else None
    cascade = (
        None
        if text is None or fused is None or fast is None
        else Cascade.load(folder / CASCADE, taxonomy, (text, fast, fused))
    )
    joint = None
    if route in ("xmc", "average"):
        joint = JointTagger.load(folder / JOINT, taxonomy, () if fast is None else (fast,))
    return Model(
        taxonomy,
        fast,
        calibration,
        decisions["thresholds"],
        Codebook.load(folder / CODES) if CODES in about["files"] else None,
        pq.read_table(folder / KEYWORDS),
        about,
        fused,
        text,
        cascade,
        joint,
    )


def check_route(folder: Path, about: dict[str, Any], route: str) -> None:
    """Raise ModelError where a model was not trained to answer by a route."""
    trained = about["tagger"]
    if route not in ROUTES[trained]:
        known = ", ".join(ROUTES[trained])
        raise ModelError(f"{folder}: a model of tagger {trained} has no route {route}; it has: {known}")
