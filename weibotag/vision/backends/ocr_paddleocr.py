"""PaddleOCR 3 on the weights of the rapidocr wheel, or on models of the user's.

The stage runs alone in its process: the library is not thread-safe, imports torch by itself where that is installed, and
torch and paddlepaddle clash. With paddlepaddle its memory is known to grow, so the process is to be replaced now and then.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backend import Backend, Line
from weibotag.vision.backends.ocr_layout import (
    DETECTOR,
    LOW,
    LOW_SHARE,
    RECOGNISER,
    Found,
    order_lines,
    search_pictures,
    side_lengths,
)
from weibotag.vision.backends.onnx_session import GPU, choose_providers, session_errors
from weibotag.vision.weights.catalogue import at_hand, find_model

SETTINGS = "inference.yml"
# What a model folder holds for each of the library's engines.
ENGINES = {"onnxruntime": ("inference.onnx",), "paddle": ("inference.json", "inference.pdiparams")}
# How the names of PaddleOCR's own models begin: PP-OCRv5_server_det …
OFFICIAL = "PP-OCR"


@dataclass
class PaddleOcr(Backend[list[Line]]):
    """Text lines by PaddleOCR, picture by picture: the library searches them one by one, whatever it is given.

    `model` is None for the weights of the rapidocr wheel, or a folder with the model folders det and rec, or "DET,REC", one
    model folder of each. These are paths, or names like hf:PaddlePaddle/PP-OCRv5_mobile_det_onnx; what lies in them says
    whether onnxruntime or paddlepaddle runs them. `max_side`: long side that text is searched at, pixels.
    """

    alone: ClassVar[bool] = True

    max_side: int = 800
    model: str | None = None
    device: str = "auto"

    def weights(self) -> list[Path]:
        """Return the files of the detector and of the recogniser; RequestError when one is absent."""
        if self.model is None:
            return [find_model(DETECTOR), find_model(RECOGNISER)]
        folders = find_folders(self.model)
        files = (SETTINGS, *ENGINES[find_engine(*folders)])
        return [folder / file for folder in folders for file in files]

    def open(self, threads: int = 1) -> None:
        """Load both models, to run on `threads` threads; RequestError where the library refuses them."""
        import cv2

        # onnxruntime would tell Microsoft about the models, the library look which of its servers can be reached.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        with TemporaryDirectory() as scratch:
            detector, recogniser = lay_out(Path(scratch)) if self.model is None else find_folders(self.model)
            # It makes its cache when it is imported, in a home that may not be writable, and then has no use for it.
            os.environ.setdefault("PADDLE_PDX_CACHE_HOME", scratch)
            self._model = load(detector, recogniser, self.device, threads)
        cv2.setNumThreads(threads)
        self.errors = (cv2.error, *session_errors(), RuntimeError, ValueError, IndexError, ArithmeticError, MemoryError)
        self.look([np.full((48, 96, 3), 255, np.uint8)])

    def _look_at(self, rgb: np.ndarray) -> list[Line]:
        (lines,) = search_pictures([rgb], self.max_side, self._search)
        return order_lines(lines)

    def _search(self, parts: Sequence[np.ndarray], scales: Sequence[float]) -> list[Found]:
        return [self._predict(part, scale) for part, scale in zip(parts, scales, strict=True)]

    def _predict(self, part: np.ndarray, scale: float) -> Found:
        import cv2

        bgr = cv2.cvtColor(part, cv2.COLOR_RGB2BGR)
        if scale > 1:
            bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        side = round(scale * max(part.shape))
        found = self._model.predict(bgr, text_det_limit_side_len=side, text_det_limit_type="max")[0]
        read = zip(found["rec_polys"], found["rec_texts"], found["rec_scores"], strict=True)
        lines = [(box, text.strip(), round(float(score), 4)) for box, text, score in read if text.strip()]
        corners = np.reshape([box for box, _, _ in lines], (-1, 4, 2)).astype(np.float64) / max(1.0, scale)
        sides = [side_lengths(box * scale) for box in corners]
        small = sum(long for long, high in sides if high < LOW) > LOW_SHARE * sum(long for long, _ in sides)
        return Found(corners, small, [(text, score) for _, text, score in lines])


def load(detector: Path, recogniser: Path, device: str, threads: int) -> Any:
    """Return a PaddleOCR of two model folders, silent and without its models for whole pages.

    Raises RequestError where the library refuses a model or the device.
    """
    from paddleocr import PaddleOCR

    logging.getLogger("paddlex").setLevel(logging.CRITICAL)
    engine = find_engine(detector, recogniser)
    names = read_name(detector, "det"), read_name(recogniser, "rec")
    # Above the number of cores onnxruntime spins threads against each other.
    threads = min(threads, os.cpu_count() or 1)
    place: str | None
    if engine == "onnxruntime":
        place = "gpu" if GPU in choose_providers(device) else "cpu"
    else:
        # None: a GPU where paddlepaddle has one.
        place = None if device == "auto" else device.replace("cuda", "gpu")
    options = {
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        "log_severity_level": 3,
        # Pictures of ever new sizes would make it grow; it saves no time.
        "enable_cpu_mem_arena": False,
    }
    try:
        return PaddleOCR(
            engine=engine,
            engine_config=options if engine == "onnxruntime" else None,
            cpu_threads=threads,
            device=place,
            text_detection_model_name=names[0],
            text_detection_model_dir=str(detector),
            text_recognition_model_name=names[1],
            text_recognition_model_dir=str(recogniser),
            # Lines one by one, each as wide as it is: padding them to a common width costs more than a batch gains.
            text_recognition_batch_size=1,
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
        )
    except Exception as error:
        # Some of what it raises is a bare Exception.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise RequestError(f"paddleocr can't use the models {detector} and {recogniser}: {reason}") from error


def find_folders(model: str) -> tuple[Path, Path]:
    """Return the detector's and the recogniser's folder for the setting `model`; RequestError when there is none."""
    names = [name.strip() for name in model.split(",")]
    if len(names) == 1:
        return find_model(names[0]) / "det", find_model(names[0]) / "rec"
    if len(names) != 2:
        raise RequestError(f"ocr with paddleocr found {len(names)} models in {model!r}: give FOLDER or DET,REC")
    return find_folder(names[0]), find_folder(names[1])


def find_folder(name: str) -> Path:
    """Return a model's folder, by its path or by what `find_model` knows; an official name stands for its hub folder."""
    official = name.startswith(OFFICIAL) and at_hand(name) is None
    return find_model(f"hf:PaddlePaddle/{name}_onnx" if official else name)


def find_engine(*folders: Path) -> str:
    """Return the engine that all model folders have files for; RequestError when there is none or it is not installed."""
    for folder in folders:
        if not (folder / SETTINGS).is_file():
            raise RequestError(f"{folder}: found no {SETTINGS}: give a model folder of PaddleOCR 3")
    for engine, files in ENGINES.items():
        if not all((folder / file).is_file() for folder in folders for file in files):
            continue
        if engine == "paddle" and find_spec("paddle") is None:
            raise RequestError(f"{folders[0]} needs: pip install paddlepaddle; models called …_onnx do without")
        return engine
    wanted = " or ".join(" and ".join(files) for files in ENGINES.values())
    raise RequestError(f"found no {wanted} in each of {', '.join(map(str, folders))}: give two models of one kind")


def read_name(folder: Path, kind: str) -> str:
    """Return what a folder says its model of a kind, det or rec, is called: the library must be told, and wants no other."""
    # To parse its dictionary of many thousand characters would take as long as to load the model.
    found = re.search(rf"^ +model_name: *(\S+_{kind})\s*$", (folder / SETTINGS).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RequestError(f"{folder / SETTINGS}: found no model_name …_{kind}: give the detector, then the recogniser")
    return found[1]


def lay_out(folder: Path) -> tuple[Path, Path]:
    """Make the model folders det and rec in `folder` from the two ONNX files of the rapidocr wheel and return them.

    What the settings say, in the file beside this one, is how the networks were trained.
    """
    import onnx
    import yaml

    settings = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
    sources = {"det": find_model(DETECTOR), "rec": find_model(RECOGNISER)}
    described = {entry.key: entry.value for entry in onnx.load(str(sources["rec"])).metadata_props}
    settings["rec"]["PostProcess"]["character_dict"] = described["character"].split("\n")
    for kind, source in sources.items():
        target = folder / kind
        target.mkdir()
        copyfile(source, target / "inference.onnx")
        (target / SETTINGS).write_text(yaml.safe_dump(settings[kind], allow_unicode=True), encoding="utf-8")
    return folder / "det", folder / "rec"
