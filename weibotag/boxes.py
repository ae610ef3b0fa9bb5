"""Users' own boxes: pictures with labelled rectangles, read from YOLO's data.yaml or a COCO file, written as YOLO's."""

import hashlib
import json
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from weibotag.errors import RequestError
from weibotag.formats import find_picture
from weibotag.media import MediaLimits, read_media

HELD_OUT_SHARE = 0.2
# Annotators drag boxes a little over the edge; of a box that mostly lies outside nothing is known.
LEAST_INSIDE = 0.5
# Declared and real sides may differ by scaling, not by shape: a picture that lost its EXIF turn has other boxes.
SAME_SHAPE = 0.02
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
LIMITS = MediaLimits(max_frames=1)


@dataclass(frozen=True)
class Box:
    """One labelled rectangle: left, top, width, height as shares of the upright picture, 0 to 1."""

    label: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and its boxes, none where nothing is to be found in it; `size`: width and height that its boxes are for."""

    path: Path
    boxes: tuple[Box, ...]
    size: tuple[int, int] | None = None


Pictures = list[LabelledPicture]


@dataclass(frozen=True)
class BoxSet:
    """Pictures to train on and those held out, the labels in order, and in one line each what could not be used."""

    labels: tuple[str, ...]
    train: tuple[LabelledPicture, ...]
    held_out: tuple[LabelledPicture, ...]
    problems: tuple[str, ...]


def read_boxes(source: Path, images: Path | None = None, valid: str | None = None) -> BoxSet:
    """Return the pictures and boxes of a YOLO data.yaml or a COCO JSON file, or of the folder that holds one.

    `images` is the folder of a COCO file's pictures (its own by default). `valid` says what is held out: a share from 0 to
    1, or a folder or file of further pictures; by default YOLO's `val`, else a fifth, by a hash of the file names. Raises
    RequestError where nothing is left to train on or to measure on.
    """
    problems: list[str] = []
    source = find_source(source)
    numbered, train, held_out = read_source(source, images, problems)
    labels = tuple(dict.fromkeys(numbered.values()))
    share = None if valid is None else parse_share(valid)
    if valid is not None and share is None:
        held_out = read_held_out(Path(valid), source, numbered, problems)
    train, held_out = keep_readable(train, problems), keep_readable(held_out, problems)
    if share is not None or (valid is None and not held_out):
        train, held_out = split_pictures(train, share or HELD_OUT_SHARE)
    measured = {picture.path.resolve() for picture in held_out}
    train = [picture for picture in train if picture.path.resolve() not in measured]
    held_out = [drop_unknown(picture, labels, problems) for picture in held_out]
    for role, pictures in (("to train on", train), ("held out", held_out)):
        if not any(picture.boxes for picture in pictures):
            first = f"; first problem of {len(problems)}: {problems[0]}" if problems else ""
            raise RequestError(
                f"{source}: found no boxes in the {len(pictures)} pictures {role}; expected at least one{first}"
            )
    return BoxSet(labels, tuple(train), tuple(held_out), tuple(problems))


def find_source(path: Path) -> Path:
    """Return the file that lists boxes: `path`, or the data.yaml or only JSON file of that folder; else RequestError."""
    found = [path]
    if path.is_dir():
        found = [path / "data.yaml"] if (path / "data.yaml").is_file() else sorted(path.glob("*.json"))
    if len(found) == 1 and found[0].is_file() and found[0].suffix.lower() in (".yaml", ".yml", ".json"):
        return found[0]
    raise RequestError(f"{path}: found no list of boxes; expected YOLO's data.yaml, a COCO JSON file, or a folder with one")


def read_source(source: Path, images: Path | None, problems: list[str]) -> tuple[dict[int, str], Pictures, Pictures]:
    """Return labels by number, in their order, pictures to train on and pictures that the file itself holds out."""
    if source.suffix.lower() == ".json":
        return *read_coco(source, images or source.parent, problems), []
    if images is not None:
        raise RequestError(f"--images {images}: is for COCO files; {source} names its pictures itself: leave --images out")
    return read_yolo(source, problems)


def read_held_out(valid: Path, source: Path, labels: dict[int, str], problems: list[str]) -> Pictures:
    """Return the pictures of `valid`: a folder in YOLO's layout where `source` is YOLO's, else a list of boxes."""
    if valid.is_dir() and source.suffix.lower() != ".json":
        return [read_yolo_picture(path, labels, problems) for path in list_pictures(valid)]
    return read_source(find_source(valid), None, problems)[1]


def parse_share(valid: str) -> float | None:
    """Return the share that `valid` says, None where it is no number; RequestError for one that is not between 0 and 1."""
    try:
        share = float(valid)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise RequestError(f"--valid {valid}: expected a share between 0 and 1, or a folder or file of pictures with boxes")
    return share


def split_pictures(pictures: Pictures, share: float) -> tuple[Pictures, Pictures]:
    """Return pictures to train on and a share of at least one to hold out, by a hash of their names: no order changes it."""
    ranked = sorted(pictures, key=lambda picture: hashlib.sha256(picture.path.name.encode()).digest())
    count = max(1, round(share * len(pictures)))
    return ranked[count:], ranked[:count]


def drop_unknown(picture: LabelledPicture, labels: Collection[str], problems: list[str]) -> LabelledPicture:
    """Return a picture without boxes of labels that nothing is trained for."""
    strangers = sorted({box.label for box in picture.boxes} - set(labels))
    problems += [f"{picture.path}: label {label!r} is none of those that are trained" for label in strangers]
    return replace(picture, boxes=tuple(box for box in picture.boxes if box.label in labels))


def keep_readable(pictures: Pictures, problems: list[str]) -> Pictures:
    """Return the pictures that decode, in the shape that their boxes are for: better now than hours into a training."""
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(find_fault, pictures))
    problems += [fault for fault in faults if fault is not None]
    return [picture for picture, fault in zip(pictures, faults, strict=True) if fault is None]


def find_fault(picture: LabelledPicture) -> str | None:
    """Return why a picture can't be used, in one line, or None."""
    try:
        height, width = read_picture(picture.path).shape[:2]
    except ValueError as error:
        return str(error)
    if picture.size is None or abs(picture.size[0] / picture.size[1] * height / width - 1) <= SAME_SHAPE:
        return None
    return f"{picture.path}: is {width} x {height} upright, its boxes are for {picture.size[0]} x {picture.size[1]}"


def read_picture(path: Path) -> np.ndarray:
    """Return the pixels of a picture file, upright: uint8 RGB (height, width, 3); raises ValueError with the reason."""
    try:
        with path.open("rb") as file:
            rows, frames = read_media(file.read(LIMITS.max_bytes + 1), "", LIMITS)
    except OSError as error:
        raise ValueError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if not frames:
        raise ValueError(f"{path}: {rows[0]['media_error']}")
    return frames[0].rgb


def fit_box(label: str, left: float, top: float, width: float, height: float) -> Box:
    """Return a box cut to its picture; raises ValueError with the reason for one without area or mostly outside."""
    if not all(map(isfinite, (left, top, width, height))):
        raise ValueError("a side that is no number")
    if width <= 0 or height <= 0:
        raise ValueError(f"a box without area ({width:g} x {height:g})")
    right, bottom = min(left + width, 1.0), min(top + height, 1.0)
    cut = Box(label, max(left, 0.0), max(top, 0.0), right - max(left, 0.0), bottom - max(top, 0.0))
    if min(cut.width, cut.height) <= 0 or cut.width * cut.height < LEAST_INSIDE * width * height:
        raise ValueError("a box that lies outside of its picture")
    return cut


def read_yolo(path: Path, problems: list[str]) -> tuple[dict[int, str], Pictures, Pictures]:
    """Return labels by number, pictures of `train` and pictures of `val` of a YOLO data.yaml.

    Format: https://docs.ultralytics.com/datasets/detect. A label is found by its number; polygons count by their bounds.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"{path}: can't be read as YAML: {' '.join(str(error).split())[:200]}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if not isinstance(names, list | dict) or not names or "train" not in content:
        raise RequestError(f"{path}: found no `names` and `train`; expected YOLO's data.yaml: names, train and perhaps val")
    numbered = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        labels = dict(sorted((int(number), str(name)) for number, name in numbered))
    except (TypeError, ValueError) as error:
        raise RequestError(f"{path}: names: expected a list, or numbers with names: {error}") from error
    splits: dict[str, dict[Path, None]] = {"train": {}, "val": {}}
    for split, found in splits.items():
        entries = content.get(split) or []
        for entry in map(str, entries if isinstance(entries, list) else [entries]):
            # Below its `path`, below its own folder, or one level deeper than it says: Roboflow writes ../train/images for
            # what lies beside data.yaml.
            root = path.parent / str(content.get("path") or "")
            places = (root / entry, path.parent / entry, path.parent / entry.removeprefix("../"))
            place = next((place for place in places if place.exists()), None)
            if place is None:
                problems.append(f"{path}: {split}: no such file or folder: {entry}")
            else:
                found |= dict.fromkeys(list_pictures(place))
    train, val = ([read_yolo_picture(picture, labels, problems) for picture in found] for found in splits.values())
    return labels, train, val


def list_pictures(place: Path) -> list[Path]:
    """Return the pictures of a folder and all below, those that a text file lists, or `place` itself."""
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if place.suffix.lower() != ".txt":
        return [place]
    lines = place.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [place.parent / line.strip() for line in lines if line.strip()]


def read_yolo_picture(path: Path, labels: dict[int, str], problems: list[str]) -> LabelledPicture:
    """Return a picture with the boxes of its text file; without a file it is one in which nothing is to be found."""
    file = label_file(path)
    if not file.is_file():
        return LabelledPicture(path, ())
    boxes: dict[Box, None] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            boxes[parse_yolo_line(line, labels)] = None
        except ValueError as error:
            problems.append(f"{file}:{number}: {error}")
    return LabelledPicture(path, tuple(boxes))


def label_file(picture: Path) -> Path:
    """Return where the boxes of a picture stand: in `labels` beside the last folder `images` of its path, or beside it."""
    parts = list(picture.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        if Path(*parts).is_file():
            return Path(*parts)
    return picture.with_suffix(".txt")


def parse_yolo_line(line: str, labels: dict[int, str]) -> Box:
    """Return the box of `number x_centre y_centre width height`, or of a polygon's points; raises ValueError."""
    number, *fields = line.split()
    try:
        values = [float(field) for field in fields]
        label = labels.get(int(float(number)))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"expected numbers, found {line[:80]!r}") from error
    if label is None:
        raise ValueError(f"no label has the number {number}; names has {min(labels)} to {max(labels)}")
    if len(values) == 4:
        x, y, width, height = values
        return fit_box(label, x - width / 2, y - height / 2, width, height)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"expected a number and 4 values, or the points of a polygon; found {len(values)} values")
    left, top = min(values[::2]), min(values[1::2])
    return fit_box(label, left, top, max(values[::2]) - left, max(values[1::2]) - top)


def read_coco(path: Path, images: Path, problems: list[str]) -> tuple[dict[int, str], Pictures]:
    """Return labels by number, and pictures, of a COCO file whose pictures lie in `images`; crowds are left out.

    Format: https://cocodataset.org/#format-data.
    """
    try:
        content = json.loads(path.read_bytes())
        labels = dict(sorted((row["id"], str(row["name"])) for row in content["categories"]))
        pictures = {row["id"]: row for row in content["images"]}
        places = {key: images / row["file_name"] for key, row in pictures.items()}
        annotations = list(content["annotations"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path}: can't be read as COCO ({type(error).__name__}: {error}); "
            "expected lists: images with file_name, annotations, categories"
        ) from error
    boxes: dict[Any, dict[Box, None]] = {key: {} for key in pictures}
    for number, row in enumerate(annotations):
        try:
            if not row.get("iscrowd"):
                box = parse_coco_row(row, pictures, labels)
                boxes[row["image_id"]][box] = None
        except ValueError as error:
            problems.append(f"{path}: annotation {number}: {error}")
        except (AttributeError, KeyError, TypeError):
            problems.append(f"{path}: annotation {number}: expected image_id, category_id and bbox, found {str(row)[:100]}")
    sizes = {key: (pictures[key]["width"], pictures[key]["height"]) if found else None for key, found in boxes.items()}
    return labels, [LabelledPicture(place, tuple(boxes[key]), sizes[key]) for key, place in places.items()]


def parse_coco_row(row: dict[str, Any], pictures: dict[Any, dict[str, Any]], labels: dict[Any, str]) -> Box:
    """Return the box of an annotation; raises ValueError with the reason, KeyError or TypeError where there is none."""
    if row["category_id"] not in labels:
        raise ValueError(f"no category has the id {row['category_id']}")
    if row["image_id"] not in pictures:
        raise ValueError(f"no image has the id {row['image_id']}")
    sides = [float(side) for side in row["bbox"]]
    if len(sides) != 4:
        raise ValueError(f"expected a bbox of x, y, width, height, found {len(sides)} numbers")
    left, top, width, height = sides
    across, down = (pictures[row["image_id"]].get(side) or 0 for side in ("width", "height"))
    if min(across, down) <= 0:
        raise ValueError(f"its image {row['image_id']} says no width and height")
    return fit_box(labels[row["category_id"]], left / across, top / down, width / across, height / down)


def write_yolo(boxes: BoxSet, folder: Path) -> Path:
    """Write YOLO's layout into an empty folder, pictures as links to where they lie; return its data.yaml."""
    numbers = {label: number for number, label in enumerate(boxes.labels)}
    for split, pictures in (("train", boxes.train), ("val", boxes.held_out)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for place, picture in enumerate(pictures):
            link_picture(picture.path, folder / "images" / split / f"{place:06d}")
            lines = [
                f"{numbers[box.label]} {box.left + box.width / 2:.6f} {box.top + box.height / 2:.6f} "
                f"{box.width:.6f} {box.height:.6f}\n"
                for box in picture.boxes
            ]
            (folder / "labels" / split / f"{place:06d}.txt").write_text("".join(lines))
    path = folder / "data.yaml"
    names = dict(enumerate(boxes.labels))
    content = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val", "names": names}
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def link_picture(picture: Path, place: Path) -> None:
    """Put a picture at a place, named without suffix: a link, or a copy where links are not to be had.

    Pixels where YOLO's library would pass over the file (GIF), or rewrite it, through the link even (JPEG without end mark).
    """
    from PIL import Image

    data = picture.read_bytes()
    kind = find_picture(data)
    if kind == "GIF" or (kind == "JPEG" and not data.endswith(b"\xff\xd9")):
        Image.fromarray(read_picture(picture)).save(place.with_suffix(".png"))
        return
    link = place.with_suffix(f".{kind.lower()}")
    try:
        link.symlink_to(picture.resolve())
    except OSError:
        shutil.copyfile(picture, link)
