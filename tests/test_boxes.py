"""Users' boxes: what YOLO's and COCO's files say, what is wrong with them, and what is held out."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from weibotag.boxes import (
    Box,
    BoxSet,
    LabelledPicture,
    fit_box,
    label_file,
    parse_yolo_line,
    read_boxes,
    read_picture,
    split_pictures,
    write_yolo,
)
from weibotag.errors import RequestError

LABELS = {0: "杯子", 1: "猫"}
MIDDLE = "0 0.5 0.5 0.5 0.5\n"


def draw(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "white").save(path)
    return path


def write_data(folder: Path, **content: object) -> Path:
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"names": ["杯子", "猫"], **content}, allow_unicode=True), encoding="utf-8")
    return path


def add_pictures(folder: Path, count: int, line: str = MIDDLE) -> None:
    """Add pictures to a folder of the kind `images`, and their boxes to `labels` beside it."""
    labels = folder.parent / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        draw(folder / f"{number}.png")
        (labels / f"{number}.txt").write_text(line, encoding="utf-8")


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    add_pictures(tmp_path / "train" / "images", 4)
    add_pictures(tmp_path / "valid" / "images", 2, "1 0.25 0.25 0.5 0.5\n")
    return write_data(tmp_path, train="train/images", val="valid/images")


def coco(folder: Path, **changes: object) -> Path:
    """Write two pictures and a COCO file of theirs, ids in no order."""
    for name in ("a.png", "b.png"):
        draw(folder / "pictures" / name)
    images = [{"id": number, "file_name": name, "width": 40, "height": 30} for number, name in ((9, "a.png"), (4, "b.png"))]
    content = {
        "categories": [{"id": 7, "name": "猫"}, {"id": 3, "name": "杯子"}],
        "images": images,
        "annotations": [
            {"image_id": 9, "category_id": 7, "bbox": [10, 15, 20, 15]},
            {"image_id": 4, "category_id": 3, "bbox": [0, 0, 40, 30]},
            {"image_id": 4, "category_id": 7, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
    }
    path = folder / "boxes.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_yolo_folders_and_what_they_hold_out(yolo: Path) -> None:
    boxes = read_boxes(yolo)
    assert (boxes.labels, boxes.problems) == (("杯子", "猫"), ())
    assert [picture.path.name for picture in boxes.train] == ["0.png", "1.png", "2.png", "3.png"]
    assert {picture.boxes for picture in boxes.train} == {(Box("杯子", 0.25, 0.25, 0.5, 0.5),)}
    assert {picture.boxes for picture in boxes.held_out} == {(Box("猫", 0.0, 0.0, 0.5, 0.5),)}
    assert read_boxes(yolo.parent) == boxes


def test_yolo_as_roboflow_and_lists_write_it(yolo: Path) -> None:
    folder = yolo.parent
    expected = read_boxes(yolo)
    # Numbers as keys, paths that start above the folder.
    write_data(folder, names={1: "猫", 0: "杯子"}, train="../train/images", val="../valid/images")
    assert read_boxes(yolo) == expected
    listed = folder / "train.txt"
    listed.write_text("".join(f"./train/images/{number}.png\n" for number in range(4)), encoding="utf-8")
    write_data(folder, path=".", train=["train.txt"], val=["valid/images/0.png", "valid/images/1.png"])
    found = read_boxes(yolo)
    assert [picture.boxes for picture in found.train] == [picture.boxes for picture in expected.train]
    assert len(found.held_out) == 2


def test_yolo_label_files_beside_pictures(tmp_path: Path) -> None:
    path = draw(tmp_path / "images" / "deep" / "one.jpg")
    assert label_file(path) == path.with_suffix(".txt")
    other = tmp_path / "labels" / "deep" / "one.txt"
    other.parent.mkdir(parents=True)
    other.write_text(MIDDLE, encoding="utf-8")
    assert label_file(path) == other


def test_every_problem_is_a_line_and_the_rest_is_read(yolo: Path) -> None:
    labels = yolo.parent / "train" / "labels"
    (labels / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n0 0.5 0.5 0 0.2\n0 1.4 0.5 0.2 0.2\n0 0.5\nx\n\n")
    (labels / "1.txt").write_text("0 nan 0.5 0.2 0.2\n1 0.1 0.1 0.5 0.1 0.5 0.9\n1 0.1 0.1 0.5 0.1 0.5 0.9\n")
    (labels / "2.txt").unlink()
    (yolo.parent / "train" / "images" / "3.png").write_bytes(b"no picture")
    boxes = read_boxes(yolo)
    # A polygon counts by its bounds, once; a picture without a file of boxes has nothing to be found.
    assert [len(picture.boxes) for picture in boxes.train] == [1, 1, 0]
    assert boxes.train[1].boxes == (Box("猫", 0.1, 0.1, 0.4, 0.8),)
    assert [problem.replace(str(yolo.parent), "") for problem in boxes.problems] == [
        "/train/labels/0.txt:2: no label has the number 7; names has 0 to 1",
        "/train/labels/0.txt:3: a box without area (0 x 0.2)",
        "/train/labels/0.txt:4: a box that lies outside of its picture",
        "/train/labels/0.txt:5: expected a number and 4 values, or the points of a polygon; found 1 values",
        "/train/labels/0.txt:6: expected numbers, found 'x'",
        "/train/labels/1.txt:1: a side that is no number",
        "/train/images/3.png: not a picture: looks like text",
    ]


def test_coco_numbers_names_and_crowds(tmp_path: Path) -> None:
    boxes = read_boxes(coco(tmp_path), tmp_path / "pictures", "0.5")
    assert (boxes.labels, boxes.problems) == (("杯子", "猫"), ())
    found = {picture.path.name: picture.boxes for picture in (*boxes.train, *boxes.held_out)}
    assert found == {"a.png": (Box("猫", 0.25, 0.5, 0.5, 0.5),), "b.png": (Box("杯子", 0.0, 0.0, 1.0, 1.0),)}


def test_coco_problems(tmp_path: Path) -> None:
    good = {"image_id": 9, "category_id": 7, "bbox": [10, 15, 20, 15]}
    rows: list[object] = [
        good,
        good | {"image_id": 4},
        good | {"category_id": 1},
        good | {"image_id": 1},
        good | {"bbox": [1, 2, 3]},
        good | {"bbox": [100, 0, 10, 10]},
        {"image_id": 9, "category_id": 7},
        "no row",
    ]
    boxes = read_boxes(coco(tmp_path, annotations=rows), tmp_path / "pictures")
    assert len(boxes.train) == len(boxes.held_out) == 1
    assert [problem.partition("annotation ")[2] for problem in boxes.problems] == [
        "2: no category has the id 1",
        "3: no image has the id 1",
        "4: expected a bbox of x, y, width, height, found 3 numbers",
        "5: a box that lies outside of its picture",
        "6: expected image_id, category_id and bbox, found {'image_id': 9, 'category_id': 7}",
        "7: expected image_id, category_id and bbox, found no row",
    ]


def test_boxes_for_a_picture_that_was_turned_since(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = coco(tmp_path)
    Image.new("RGB", (40, 30), "white").save(tmp_path / "pictures" / "a.png", exif=exif)
    with pytest.raises(RequestError, match=r"a\.png: is 30 x 40 upright, its boxes are for 40 x 30"):
        read_boxes(path, tmp_path / "pictures")


def test_what_is_held_out(yolo: Path) -> None:
    folder = yolo.parent
    halves = read_boxes(yolo, valid="0.5")
    assert len(halves.train) == len(halves.held_out) == 2
    assert all("train" in str(picture.path) for picture in (*halves.train, *halves.held_out))
    add_pictures(folder / "more" / "images", 3, "0 0.5 0.5 1 1\n")
    assert len(read_boxes(yolo, valid=str(folder / "more" / "images")).held_out) == 3
    # Pictures that are measured on are not trained on.
    write_data(folder, train=["train/images", "valid/images"])
    mixed = read_boxes(yolo, valid=str(folder / "valid"))
    assert [len(mixed.train), len(mixed.held_out)] == [4, 2]
    other = coco(folder / "other")
    with pytest.raises(RequestError, match="no such file"):
        read_boxes(yolo, valid=str(other))
    strange = coco(folder / "other" / "pictures", categories=[{"id": 7, "name": "猫"}, {"id": 3, "name": "船"}])
    found = read_boxes(yolo, valid=str(strange.rename(strange.parent / "pictures" / "boxes.json")))
    assert [len(picture.boxes) for picture in found.held_out] == [1, 0]
    assert "label '船' is none of those that are trained" in found.problems[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.yaml", "names: [a]\n", "found no `names` and `train`"),
        ("data.yaml", "names: {a: b}\ntrain: x\n", "expected a list, or numbers with names"),
        ("data.yaml", "names: {~: b}\ntrain: x\n", "expected a list, or numbers with names"),
        ("data.yaml", "names: [a]\ntrain: 5\n", "no such file or folder: 5"),
        ("data.yaml", "names: [a\n", "can't be read as YAML"),
        ("data.yaml", "names: [a]\ntrain: nowhere\n", "no such file or folder: nowhere"),
        ("boxes.json", "[]", "can't be read as COCO"),
        ("boxes.json", "{", "can't be read as COCO"),
        ("boxes.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}', "can't be read as COCO"),
        (
            "boxes.json",
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": "b", "name": ""}]}',
            "COCO",
        ),
        ("boxes.json", '{"images": [], "annotations": [], "categories": []}', "found no boxes in the 0 pictures"),
        ("boxes.csv", "a,b\n", "found no list of boxes"),
    ],
)
def test_sources_that_say_nothing(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match=said) as caught:
        read_boxes(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_requests_that_make_no_sense(yolo: Path) -> None:
    with pytest.raises(RequestError, match="--images"):
        read_boxes(yolo, images=yolo.parent)
    for share in ("0", "1", "7", "nan"):
        with pytest.raises(RequestError, match="between 0 and 1"):
            read_boxes(yolo, valid=share)
    with pytest.raises(RequestError, match="found no list of boxes"):
        read_boxes(yolo.parent / "absent.yaml")
    for label in (yolo.parent / "valid" / "labels").iterdir():
        label.write_text("")
    with pytest.raises(RequestError, match="found no boxes in the 2 pictures held out"):
        read_boxes(yolo)


def test_pixels_of_a_picture_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / "turned.png", exif=exif)
    rgb = read_picture(tmp_path / "turned.png")
    assert (rgb.shape, rgb.dtype, tuple(rgb[0, 0])) == ((40, 30, 3), np.uint8, (200, 100, 50))
    with pytest.raises(ValueError, match="no such file"):
        read_picture(tmp_path / "absent.png")


SIDE = st.floats(-2, 3)


@given(SIDE, SIDE, SIDE, SIDE)
def test_a_box_is_cut_to_its_picture_or_refused(left: float, top: float, width: float, height: float) -> None:
    try:
        box = fit_box("杯子", left, top, width, height)
    except ValueError:
        inside = max(0.0, min(left + width, 1) - max(left, 0)) * max(0.0, min(top + height, 1) - max(top, 0))
        assert min(width, height) <= 0 or inside <= 0.5 * width * height
        return
    assert box.left >= 0 and box.top >= 0 and box.width > 0 and box.height > 0
    assert box.left + box.width <= 1 + 1e-9 and box.top + box.height <= 1 + 1e-9
    if min(left, top) >= 0 and max(left + width, top + height) <= 1:
        assert (box.left, box.top, box.width, box.height) == pytest.approx((left, top, width, height))


@given(
    st.text(max_size=40)
    | st.lists(st.floats() | st.integers(), min_size=1, max_size=9).map(lambda row: " ".join(map(str, row)))
)
def test_any_line_is_a_box_or_a_reason(line: str) -> None:
    if not line.strip():
        return
    try:
        box = parse_yolo_line(line, LABELS)
    except ValueError as error:
        assert str(error)
        return
    assert box.label in LABELS.values() and 0 < box.width <= 1 and 0 < box.height <= 1


@given(st.sets(st.text("abc0", min_size=1, max_size=6), min_size=2, max_size=20), st.floats(0.01, 0.99), st.randoms())
def test_a_split_does_not_depend_on_the_order(names: set[str], share: float, random: object) -> None:
    pictures = [LabelledPicture(Path(name), ()) for name in sorted(names)]
    train, held_out = split_pictures(pictures, share)
    assert sorted(str(picture.path) for picture in train + held_out) == sorted(names)
    assert abs(len(held_out) - share * len(names)) <= 1
    random.shuffle(pictures)  # type: ignore[attr-defined]
    assert split_pictures(pictures, share) == (train, held_out)


def test_written_for_yolo_and_read_again(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = []
    for number in range(6):
        corners = random.uniform(0, 0.5, (number, 4))
        boxes = tuple(Box("杯子" if place % 2 else "猫", *corner) for place, corner in enumerate(corners.round(4).tolist()))
        pictures.append(LabelledPicture(draw(tmp_path / f"图片 {number}.PNG"), boxes))
    written = BoxSet(("猫", "杯子"), tuple(pictures[:4]), tuple(pictures[4:]), ())
    read = read_boxes(write_yolo(written, tmp_path / "yolo"))
    assert (read.labels, read.problems) == (written.labels, ())
    for before, after in ((written.train, read.train), (written.held_out, read.held_out)):
        assert [picture.path.resolve() for picture in after] == [picture.path for picture in before]
        for one, other in zip(before, after, strict=True):
            assert [box.label for box in other.boxes] == [box.label for box in one.boxes]
            for box, again in zip(one.boxes, other.boxes, strict=True):
                sides = (again.left, again.top, again.width, again.height)
                assert sides == pytest.approx((box.left, box.top, box.width, box.height), abs=2e-6)


def test_pictures_that_the_library_of_yolo_would_pass_over_or_rewrite_are_written_as_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
    image.save(tmp_path / "moving.jpg", "GIF")
    image.save(tmp_path / "trailing.jpg")
    with (tmp_path / "trailing.jpg").open("ab") as file:
        file.write(b"\0")
    image.save(tmp_path / "bare", "JPEG")
    names = ("moving.jpg", "trailing.jpg", "bare")
    box = Box("猫", 0.25, 0.25, 0.5, 0.5)
    pictures = tuple(LabelledPicture(tmp_path / name, (box,)) for name in names)
    read = read_boxes(write_yolo(BoxSet(("猫",), pictures, pictures[:1], ()), tmp_path / "yolo"))
    assert not read.problems
    places = sorted((tmp_path / "yolo" / "images" / "train").iterdir())
    assert [place.name for place in places] == ["000000.png", "000001.png", "000002.jpeg"]
    assert [place.is_symlink() for place in places] == [False, False, True]
    for place, name in zip(places, names, strict=True):
        assert np.array_equal(read_picture(place), read_picture(tmp_path / name))
