"""Fine-tuning of object detectors on users' own boxes, and how well they find what was held out."""

import csv
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import cos, pi
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from weibotag.backends.detect_objects import DetectedObject
from weibotag.boxes import BoxSet, LabelledPicture, read_picture, write_yolo
from weibotag.errors import RequestError
from weibotag.files import replace_folder, write_json
from weibotag.models import find_model
from weibotag.progress import bar
from weibotag.registry import load

if TYPE_CHECKING:
    import torch

ABOUT = "detector.json"
CHECKPOINT = "best.pt"
# What a detector is measured with: average precision wants its weak answers too.
MEASURE_SCORE = 0.01
ENOUGH_OVERLAP = 0.5
# A backbone has seen millions of pictures already, the head none of these labels.
BACKBONE_RATE = 0.1
WEIGHT_DECAY = 1e-4
GRADIENT_NORM = 0.1
WARM_UP = 0.1
LOADERS = 8


@dataclass(frozen=True)
class Fitting:
    """How a detector is trained: passes over the pictures, pictures a step, AdamW's highest rate, side of the input."""

    epochs: int = 20
    batch: int = 8
    seed: int = 0
    device: str = "auto"
    learning_rate: float = 1e-4
    size: int = 640


@dataclass(frozen=True)
class Fitted:
    """What came out: the file to use (of the folder; empty: the folder), mAP@50 before, the epoch kept, loss by epoch."""

    file: str
    before: float | None
    best_epoch: int
    losses: list[float]


def train_detector(
    boxes: BoxSet, start: str, out: Path, backend: str, fitting: Fitting, quiet: bool = False
) -> dict[str, Any]:
    """Fine-tune the model `start` of a backend on users' boxes, write it to the folder `out`, and return its figures.

    The same boxes, settings and package versions give the same model on a CPU. Raises RequestError for a model that can't be
    trained, or where something else stands at `out`.
    """
    started = time.monotonic()
    refuse_stranger(out)
    kind = load("detect", backend)
    fit = {"transformers": fit_transformers, "ultralytics": fit_ultralytics}[backend]
    with replace_folder(out) as fresh:
        found = fit(boxes, start, fresh, fitting, quiet)
        trained = kind(model=str(fresh / found.file), min_score=MEASURE_SCORE, device=fitting.device)
        about = {
            "backend": backend,
            "start": start,
            "labels": list(boxes.labels),
            "pictures": {"train": len(boxes.train), "held_out": len(boxes.held_out)},
            "boxes": {"train": count_boxes(boxes.train), "held_out": count_boxes(boxes.held_out)},
            "problems": len(boxes.problems),
            "epochs": fitting.epochs,
            "best_epoch": found.best_epoch,
            "losses": found.losses,
            "map50": {"before": found.before, "after": measure_detector(trained, boxes.held_out)},
        }
        write_json(about, fresh / ABOUT)
    return {"model": str(out / found.file)} | about | {"seconds": round(time.monotonic() - started, 1)}


def refuse_stranger(folder: Path) -> None:
    """Raise RequestError when a file, or a folder of something else than a detector, stands where one is to be written."""
    if folder.exists() and not (folder / ABOUT).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RequestError(f"{folder}: exists and is no detector of detect train; give another folder with -o")


def count_boxes(pictures: Sequence[LabelledPicture]) -> int:
    """Return how many boxes the pictures have."""
    return sum(len(picture.boxes) for picture in pictures)


def measure_detector(backend: Any, pictures: Sequence[LabelledPicture]) -> float:
    """Return the mAP@50 of a backend on labelled pictures; it is opened and closed."""
    backend.open(os.cpu_count() or 1)
    try:
        return measure(backend.look, pictures)
    finally:
        backend.close()


def measure(look: Callable[[list[np.ndarray]], list[list[DetectedObject]]], pictures: Sequence[LabelledPicture]) -> float:
    """Return the mAP@50 of what `look` finds in labelled pictures, to 4 decimals."""
    found, shapes = [], []
    for picture in pictures:
        rgb = read_picture(picture.path)
        found += look([rgb])
        shapes.append(rgb.shape[:2])
    return round(mean_average_precision(found, pictures, shapes), 4)


def mean_average_precision(
    found: Sequence[Sequence[DetectedObject]], pictures: Sequence[LabelledPicture], shapes: Sequence[tuple[int, ...]]
) -> float:
    """Return mAP@50, 0 to 1: the mean over labels of the area under precision by recall, none of it interpolated.

    Objects are matched from the best score on, each to the free box of its label that it overlaps most, by at least half of
    their union. `shapes`: height and width of each picture, pixels. Labels without a box don't count.
    """
    from sklearn.metrics import average_precision_score

    truths: dict[str, int] = {}
    hits: dict[str, list[tuple[float, bool]]] = {}
    for objects, picture, (height, width) in zip(found, pictures, shapes, strict=True):
        free = [
            (box.label, (box.left * width, box.top * height, box.width * width, box.height * height))
            for box in picture.boxes
        ]
        for label, _ in free:
            truths[label] = truths.get(label, 0) + 1
        for one in sorted(objects, key=lambda one: -one.score):
            overlaps = [(share_union(one.box, box), place) for place, (label, box) in enumerate(free) if label == one.label]
            overlap, place = max(overlaps, default=(0.0, 0))
            hits.setdefault(one.label, []).append((one.score, overlap >= ENOUGH_OVERLAP))
            if overlap >= ENOUGH_OVERLAP:
                del free[place]
    precisions = []
    for label, count in truths.items():
        scores, right = zip(*hits.get(label, [(0.0, False)]), strict=True)
        # The library's recall is that of what was found: the share found of all boxes brings it down to theirs.
        precisions.append(average_precision_score(right, scores) * sum(right) / count if any(right) else 0.0)
    return float(np.mean(precisions)) if precisions else 0.0


def share_union(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the shared area of two boxes (x, y, width, height) over that of both, 0 to 1."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(across, 0.0) * max(down, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0


def fit_transformers(boxes: BoxSet, start: str, out: Path, fitting: Fitting, quiet: bool) -> Fitted:
    """Fine-tune a detector of closed classes of transformers; the epoch that finds most of what is held out is kept."""
    import torch

    from weibotag.backends.detect_transformers import PROMPTED, Transformers, find_detector, find_objects, load_detector
    from weibotag.backends.torch_device import choose_device

    folder, kind = find_detector(start)
    if kind in PROMPTED:
        raise RequestError(f"{start}: a {kind} looks for what prompts name: train an RT-DETRv2 or a D-FINE")
    before = measure_detector(Transformers(start, MEASURE_SCORE, device=fitting.device), boxes.held_out)
    device = choose_device(fitting.device)
    torch.manual_seed(fitting.seed)
    numbers = {label: number for number, label in enumerate(boxes.labels)}
    labels = {"id2label": {number: label for label, number in numbers.items()}, "label2id": numbers}
    processor, model = load_detector(folder, kind, ignore_mismatched_sizes=True, **labels)
    model.to(device)
    batches = load_batches(boxes.train, numbers, processor, fitting.batch, device)
    steps = fitting.epochs * len(batches)
    optimizer, schedule = make_optimizer(model, fitting.learning_rate, steps)
    best, best_epoch, losses = -1.0, 0, []
    with bar(steps, "training, steps", quiet) as progress:
        for epoch in range(1, fitting.epochs + 1):
            model.train()
            taken = []
            for inputs in batches:
                taken.append(take_step(model, inputs, optimizer))
                schedule.step()
                progress.advance()
            losses.append(round(float(np.mean(taken)), 4))
            model.eval()
            score = measure(partial(find_objects, model, processor, MEASURE_SCORE), boxes.held_out)
            # Of equals the later, which has seen more.
            if score >= best:
                best, best_epoch = score, epoch
                model.save_pretrained(out)
                processor.save_pretrained(out)
    return Fitted("", before, best_epoch, losses)


def load_batches(
    pictures: Sequence[LabelledPicture], numbers: dict[str, int], processor: Any, batch: int, device: "torch.device"
) -> Any:
    """Return a loader of shuffled, varied batches; beside a GPU processes of its own make them."""
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2

    # Little of hue, because a label may be a colour.
    varied = v2.Compose(
        [
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
            v2.RandomApply([v2.RandomIoUCrop()], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    workers = min(LOADERS, os.cpu_count() or 1) if device.type == "cuda" else 0
    return DataLoader(
        list(pictures),  # type: ignore[arg-type]
        batch,
        shuffle=True,
        collate_fn=partial(make_batch, numbers, processor, varied),
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def make_batch(
    numbers: dict[str, int], processor: Any, varied: Callable[..., Any], pictures: Sequence[LabelledPicture]
) -> dict[str, Any]:
    """Return what a model trains on: pixels as its processor makes them, and boxes as COCO has them through it."""
    import torch
    from torchvision import tv_tensors

    images, annotations = [], []
    for place, picture in enumerate(pictures):
        rgb = read_picture(picture.path)
        height, width = rgb.shape[:2]
        sides = [(box.left * width, box.top * height, box.width * width, box.height * height) for box in picture.boxes]
        target = {
            "boxes": tv_tensors.BoundingBoxes(  # type: ignore[call-overload]
                torch.tensor(sides).reshape(-1, 4), format="XYWH", canvas_size=(height, width)
            ),
            "labels": torch.tensor([numbers[box.label] for box in picture.boxes], dtype=torch.int64),
        }
        image, target = varied(tv_tensors.Image(torch.from_numpy(rgb.transpose(2, 0, 1).copy())), target)
        rows = [
            {"bbox": box, "area": box[2] * box[3], "category_id": number, "iscrowd": 0}
            for box, number in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)
        ]
        images.append(image.as_subclass(torch.Tensor))
        annotations.append({"image_id": place, "annotations": rows})
    return dict(processor(images=images, annotations=annotations, return_tensors="pt", input_data_format="channels_first"))


def make_optimizer(model: Any, rate: float, steps: int) -> tuple["torch.optim.Optimizer", Any]:
    """Return AdamW, with a lower rate for the backbone, and its schedule: up in the first tenth, down along a cosine."""
    import torch

    weights = dict(model.named_parameters())
    backbone = {name for name in weights if "backbone" in name}
    groups = [
        {"params": [weights[name] for name in weights if name not in backbone], "lr": rate},
        {"params": [weights[name] for name in weights if name in backbone], "lr": rate * BACKBONE_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    warm = max(1.0, WARM_UP * steps)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (1 + cos(pi * step / steps)) / 2)
    )


def take_step(model: Any, batch: dict[str, Any], optimizer: "torch.optim.Optimizer") -> float:
    """Train on one batch; return its loss. Raises RequestError when it is no number any more."""
    import torch

    inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    labels = [{name: value.to(model.device) for name, value in label.items()} for label in batch["labels"]]
    loss = model(**inputs, labels=labels).loss
    if not torch.isfinite(loss):
        raise RequestError("the training ran away (its loss is no number any more): try a larger batch or another seed")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    optimizer.step()
    return float(loss.detach())


def fit_ultralytics(boxes: BoxSet, start: str, out: Path, fitting: Fitting, quiet: bool) -> Fitted:
    """Fine-tune a YOLO by its own library (AGPL-3.0); its best epoch is kept as .pt, to train on, and .onnx, to use."""
    from weibotag.backends.detect_ultralytics import Ultralytics, import_library
    from weibotag.backends.torch_device import choose_device

    path = find_model(start, allow_pickle=True)
    if path.suffix not in (".pt", ".yaml"):
        raise RequestError(f"{path}: expected a .pt of a YOLO, or the .yaml of its architecture; others can't be trained")
    before = None
    if path.suffix == ".pt":
        known = Ultralytics(start, MEASURE_SCORE, fitting.size, allow_pickle=True, device=fitting.device)
        before = measure_detector(known, boxes.held_out)
    import_library()
    import ultralytics
    import ultralytics.data.utils

    # It is for plots, of which there are none, and would be downloaded.
    ultralytics.data.utils.check_font = lambda font: None
    device = choose_device(fitting.device)
    with TemporaryDirectory() as work, bar(fitting.epochs, "training, epochs", quiet) as progress:
        model: Any = ultralytics.YOLO(path)
        model.add_callback("on_train_epoch_end", lambda trainer: progress.advance())
        model.train(
            data=str(write_yolo(boxes, Path(work, "boxes"))),
            epochs=fitting.epochs,
            batch=fitting.batch,
            imgsz=fitting.size,
            seed=fitting.seed,
            device=str(device),
            workers=min(LOADERS, os.cpu_count() or 1) if device.type == "cuda" else 0,
            project=work,
            name="run",
            exist_ok=True,
            plots=False,
            # Mixed precision is tried out first, on a model that would be downloaded.
            amp=False,
            verbose=False,
        )
        shutil.copyfile(Path(work, "run", "weights", CHECKPOINT), out / CHECKPOINT)
        with Path(work, "run", "results.csv").open(encoding="utf-8") as file:
            rows = [{name.strip(): float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        ultralytics.YOLO(out / CHECKPOINT).export(
            format="onnx", imgsz=fitting.size, dynamic=True, simplify=False, device="cpu"
        )
    losses = [round(sum(value for name, value in row.items() if name.startswith("train/")), 4) for row in rows]
    return Fitted(Path(CHECKPOINT).with_suffix(".onnx").name, before, model.trainer.stopper.best_epoch, losses)
