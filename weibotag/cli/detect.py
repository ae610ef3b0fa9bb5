"""`weibotag detect train`: detectors of one's own."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from weibotag.cli.options import Json, Quiet
from weibotag.cli.tagging import report, say

PROBLEMS_SHOWN = 20


class Trainer(StrEnum):
    """Backends whose detectors can be trained."""

    transformers = "transformers"
    ultralytics = "ultralytics"


def detect_train_command(
    boxes: Annotated[
        Path, typer.Argument(metavar="BOXES", help="Pictures with boxes: YOLO's data.yaml, or a COCO JSON file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the detector.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="START", help="Detector to start from: a path or a name.")],
    backend: Annotated[
        Trainer, typer.Option("--backend", help="Library that trains; ultralytics is AGPL-3.0.")
    ] = Trainer.transformers,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of a COCO file's pictures.", show_default="the file's own")
    ] = None,
    valid: Annotated[
        str | None,
        typer.Option(
            "--valid", help="What is held out: a share, or a folder or file of more.", show_default="YOLO's val, else 0.2"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the pictures.")] = 20,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a step.")] = 8,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the same seed the same detector, on a CPU.")] = 0,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Fine-tune an object detector on your own boxes; the epoch that does best on held-out pictures is kept.

    Example: weibotag detect train boxes/data.yaml -o detector --model hf:PekingU/rtdetr_v2_r18vd

    Example: weibotag detect train boxes.json --images pictures -o detector --model yolo11n.pt --backend ultralytics
    """
    from weibotag.boxes import read_boxes
    from weibotag.detect_training import Fitting, train_detector
    from weibotag.registry import load

    # What is missing is said before pictures are read.
    load("detect", backend.value)
    found = read_boxes(boxes, images, valid)
    for problem in found.problems[:PROBLEMS_SHOWN]:
        say(problem, quiet)
    if len(found.problems) > PROBLEMS_SHOWN:
        say(f"… and {len(found.problems) - PROBLEMS_SHOWN:,} more problems like these", quiet)
    fitting = Fitting(epochs, batch, seed, device)
    about = train_detector(found, model, out, backend.value, fitting, quiet)
    report(about, describe_detector(about), as_json, quiet)


def describe_detector(about: dict[str, Any]) -> str:
    """Return what a trained detector is, in one line."""
    map50, pictures = about["map50"], about["pictures"]
    before = "" if map50["before"] is None else f"{map50['before']:.3f} before, "
    problems = f", {about['problems']:,} problems" if about["problems"] else ""
    return (
        f"{about['model']}: {len(about['labels'])} labels, trained on {about['boxes']['train']:,} boxes in "
        f"{pictures['train']:,} pictures{problems}; on {pictures['held_out']:,} held out mAP@50 {before}"
        f"{map50['after']:.3f} after epoch {about['best_epoch']} of {about['epochs']}; {about['seconds']:.0f} s"
    )
