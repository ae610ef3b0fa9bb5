"""Ultralytics YOLO: any of its box detectors as .onnx or .pt; YOLOE and YOLO-World look for what `classes` names."""

import ast
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backend import DetectedObject, list_objects
from weibotag.vision.backends.onnx_session import open_session, session_errors
from weibotag.vision.backends.torch_device import GPU_BATCH, TorchBackend, choose_device, choose_precision
from weibotag.vision.weights.catalogue import find_model, split_hash

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "yolo11n.onnx"
# What the library's own `predict` uses.
OVERLAP = 0.7
MOST_OBJECTS = 300
BOX_TASKS = ("detect", "segment", "pose")
# Which text encoder reads the classes of a checkpoint, by what its pickle names; the first that fits.
ENCODERS = (
    (b"WorldModel", "ViT-B-32.pt"),
    (b"mobileclip2:b", "mobileclip2_b.ts"),
    (b"YOLOEModel", "mobileclip_blt.ts"),
    (b"YOLOESegModel", "mobileclip_blt.ts"),
)


@dataclass
class Network:
    """A loaded detector.

    `run` takes uint8 RGB (batch, height, width, 3) and gives raw predictions; `size` is the height and width that pictures
    are fitted into, `trims` says whether padding beyond the stride may be left out.
    """

    run: Callable[[np.ndarray], "torch.Tensor"]
    names: Mapping[int, str]
    task: str
    size: tuple[int, int]
    stride: int
    batch: int
    trims: bool
    end2end: bool
    agnostic: bool


@dataclass
class Ultralytics(TorchBackend[list[DetectedObject]]):
    """Objects by a YOLO of Ultralytics (AGPL-3.0).

    `model`: a .onnx or .pt by a name that `find_model` knows; a .pt, a pickle, only with `allow_pickle` and a known hash.
    `size`: side of the square that pictures are fitted into, None: the model's own. `classes`: what YOLOE and YOLO-World
    look for, each "prompt=label", or a prompt that is its own label.
    """

    model: str = DEFAULT_MODEL
    min_score: float = 0.25
    size: int | None = None
    classes: Sequence[str] = ()
    allow_pickle: bool = False
    device: str = "auto"

    def weights(self) -> list[Path]:
        """Return the detector's file and, where `classes` are given, the file of its text encoder.

        Raises RequestError for a file that is absent or can't be used with these settings.
        """
        plain, _ = split_hash(self.model)
        if not plain.endswith((".onnx", ".pt")):
            raise RequestError(f"{plain}: expected a .onnx or .pt file of a YOLO")
        if plain.endswith(".pt") and not self.allow_pickle:
            raise RequestError(
                f"{plain} is a pickle, which can run code: set allow_pickle where you trust its source, "
                f"or export it once: yolo export model={plain} format=onnx dynamic=True"
            )
        path = find_model(self.model, self.allow_pickle)
        if not self.classes:
            return [path]
        if path.suffix != ".pt":
            raise RequestError(f"{path}: has the classes it was exported with: leave classes out, or give a YOLOE .pt")
        encoder = name_encoder(path)
        if find_spec("clip") is None:
            raise RequestError("classes need the tokenizer clip: pip install git+https://github.com/ultralytics/CLIP.git")
        return [path, find_model(encoder, self.allow_pickle)]

    def open(self, threads: int = 1) -> None:
        """Load the network, to run on `threads` threads.

        Raises RequestError for a file that holds no such detector or does not take pictures of `size`.
        """
        import cv2

        import_library()
        import torchvision  # noqa: F401 - the library's NMS is several times as fast where this is loaded
        from ultralytics.data.augment import LetterBox

        cv2.setNumThreads(threads)
        self._start(threads)
        self.errors = (*session_errors(), *self.errors, cv2.error)
        path, *encoder = self.weights()
        if path.suffix == ".onnx":
            network = open_onnx(path, self.size, threads, self.device)
        else:
            network = open_checkpoint(path, self.size, self.device, self.classes, encoder)
        self._batch = network.batch
        fit: Any = LetterBox(network.size, auto=network.trims, stride=network.stride)
        self._find = partial(find_objects, network, fit, self.min_score)
        self.look([np.zeros((*network.size, 3), np.uint8)])


def find_objects(
    network: Network, fit: Callable[..., np.ndarray], min_score: float, pictures: Sequence[np.ndarray]
) -> list[list[DetectedObject]]:
    """Return the objects of each picture, best first; `fit`: the library's, brings pictures to the network's size."""
    import torch
    from ultralytics.utils import ops
    from ultralytics.utils.nms import non_max_suppression

    fitted = [fit(image=picture) for picture in pictures]
    with torch.inference_mode():
        rows_of = non_max_suppression(
            network.run(np.stack(fitted)),
            min_score,
            OVERLAP,
            agnostic=network.agnostic,
            max_det=MOST_OBJECTS,
            nc=0 if network.task == "detect" else len(network.names),
            # The library would stop half-way through on a machine that is busy.
            max_time_img=math.inf,
            end2end=network.end2end,
        )
    found = []
    for picture, small, rows in zip(pictures, fitted, rows_of, strict=True):
        table = rows.cpu().numpy()
        ops.scale_boxes(small.shape[:2], table[:, :4], picture.shape[:2])
        labels = [network.names[int(number)] for number in table[:, 5]]
        found.append(list_objects(table[:, :4], table[:, 4], labels))
    return found


def import_library() -> None:
    """Import ultralytics so that it installs nothing, asks no network, says nothing and leaves the user's settings alone."""
    import platformdirs

    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_OFFLINE"] = "true"
    # Checkpoints may then build nothing but the layers that the library and torch know.
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(platformdirs.user_cache_path("weibotag")))
    import ultralytics  # noqa: F401


def name_encoder(path: Path) -> str:
    """Return the file name of the text encoder that a checkpoint was trained with; the checkpoint is not loaded.

    Raises RequestError for one whose classes are fixed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise RequestError(f"{path}: no checkpoint of torch: download it again") from error
    for mark, encoder in ENCODERS:
        if mark in pickled:
            return encoder
    raise RequestError(f"{path}: its classes are fixed: leave classes out, or give a YOLOE or YOLO-World model")


def open_onnx(path: Path, size: int | None, threads: int, device: str) -> Network:
    """Load an export of the library on onnxruntime."""
    import torch

    session = open_session(path, threads, device)
    metadata = session.get_modelmeta().custom_metadata_map
    if "names" not in metadata:
        raise RequestError(f"{path}: no names of classes in it: export it with ultralytics (yolo export format=onnx)")
    check_task(path, metadata.get("task", "detect"), metadata.get("head", ""))
    entrance = session.get_inputs()[0]
    batch, _, *sides = entrance.shape
    fixed = all(isinstance(side, int) for side in sides)
    if fixed and size not in (None, *sides):
        raise RequestError(f"{path}: takes pictures of {sides[0]} x {sides[1]}, not {size}: leave size out, or export anew")
    kind = np.float16 if "float16" in entrance.type else np.float32
    on_gpu = session.get_providers()[0] != "CPUExecutionProvider"
    stride = int(metadata.get("stride", 32))
    count = batch if isinstance(batch, int) else GPU_BATCH if on_gpu else 1

    def run(stack: np.ndarray) -> "torch.Tensor":
        pixels = np.ascontiguousarray(stack.transpose(0, 3, 1, 2)) / kind(255)
        return torch.from_numpy(session.run(None, {entrance.name: pixels})[0])

    return Network(
        run,
        ast.literal_eval(metadata["names"]),
        metadata.get("task", "detect"),
        tuple(sides) if fixed else fit_size(size or ast.literal_eval(metadata.get("imgsz", "640")), stride),
        stride,
        count,
        trims=not fixed and count == 1,
        end2end=metadata.get("end2end") == "True" or bool(ast.literal_eval(metadata.get("args", "{}")).get("nms")),
        agnostic=False,
    )


def open_checkpoint(path: Path, size: int | None, device: str, classes: Sequence[str], encoder: Sequence[Path]) -> Network:
    """Load a checkpoint of the library on torch, in half precision on a GPU, and let it look for `classes`."""
    import torch
    import ultralytics.utils
    from ultralytics.nn.autobackend import AutoBackend
    from ultralytics.nn.tasks import YOLOEModel, load_checkpoint

    if not hasattr(ultralytics.utils, "SAFE_LOAD"):
        raise RequestError(
            f"{path}: this version of ultralytics runs what a checkpoint says: pip install -U 'weibotag[yolo]'"
        )
    place = choose_device(device)
    load: Any = load_checkpoint
    try:
        model: Any = load(str(path))[0]
    except (TypeError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise RequestError(f"{path}: ultralytics can't load it: {' '.join(str(error).split())[:200]}") from error
    check_task(path, model.task, type(model).__name__)
    head = model.model[-1]
    has_classes = hasattr(model, "pe") or hasattr(head, "lrpc") or getattr(head, "is_fused", False)
    if classes:
        try:
            set_classes(model, [entry.partition("=")[0] for entry in classes], encoder[0])
        except AssertionError as error:
            raise RequestError(f"{path}: takes no classes: {error}") from error
    elif isinstance(model, YOLOEModel) and not has_classes:
        raise RequestError(f"{path}: looks for nothing until it is told what: give classes")
    # As the library's `predict` has it: heads with and without NMS give different boxes.
    if hasattr(model, "end2end"):
        model.end2end = False
    network = AutoBackend(model, device=place, fp16=choose_precision(place) == torch.float16, verbose=False)

    def run(stack: np.ndarray) -> "torch.Tensor":
        pixels = torch.from_numpy(stack).to(place).permute(0, 3, 1, 2).contiguous()
        raw = network((pixels.half() if network.fp16 else pixels.float()) / 255)
        while not isinstance(raw, torch.Tensor):
            raw = raw[0]
        return raw

    batch = GPU_BATCH if place.type == "cuda" else 1
    return Network(
        run,
        {number: entry.partition("=")[2] or entry for number, entry in enumerate(classes)} or network.names,
        model.task,
        fit_size(size or model.args["imgsz"], network.stride),
        network.stride,
        batch,
        trims=batch == 1,
        end2end=network.end2end,
        agnostic=isinstance(model, YOLOEModel),
    )


def check_task(path: Path, task: str, kind: str) -> None:
    """Raise RequestError for a model that finds no upright boxes, or that is no YOLO."""
    if task not in BOX_TASKS or "RTDETR" in kind:
        raise RequestError(f"{path}: a model for {'RT-DETR' if 'RTDETR' in kind else task}: give a YOLO that finds boxes")


def set_classes(model: Any, prompts: list[str], encoder: Path) -> None:
    """Let a YOLOE or YOLO-World look for `prompts`, which its text encoder reads here, once, and on the CPU."""
    import torch
    from ultralytics.nn.tasks import WorldModel
    from ultralytics.nn.text_model import CLIP, MobileCLIPTS

    cpu, world = torch.device("cpu"), cast("type[Any]", WorldModel)
    # By path: by name the library takes a file of the working folder, or downloads one.
    if isinstance(model, world):
        model.clip_model = CLIP(str(encoder), cpu)
        model.set_classes(prompts, cache_clip_model=True)
    else:
        model.clip_model = MobileCLIPTS(cpu, weight=str(encoder))
        model.set_classes(prompts, model.get_text_pe(prompts, cache_clip_model=True))
    model.names = dict(enumerate(prompts))
    model.clip_model = None


def fit_size(size: int | Sequence[int], stride: int) -> tuple[int, int]:
    """Return height and width, each a multiple of the stride, for one side or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return math.ceil(height / stride) * stride, math.ceil(width / stride) * stride
