"""Names for faces: built from photos, matched so that strangers stay nameless, removed for good."""

import json
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_faces import DrawnFaces, People, save_photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from weibotag.cli.main import app
from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.extraction.settings import Pipeline
from weibotag.taggers.rules import RulesScorer
from weibotag.taxonomy.tree import load
from weibotag.vision.face_gallery import (
    FALSE_NAMES,
    Gallery,
    build_gallery,
    choose_threshold,
    hash_name,
    list_removed,
    log_of,
    make_gallery,
    name_faces,
    open_gallery,
    read_gallery,
    remove_name,
)
from weibotag.vision.gallery_worth import assess
from weibotag.vision.media.pictures import Frame, frames_table

SHARED = Path(os.environ.get("WEIBOTAG_SHARED", Path(__file__).parents[2] / "shared"))
MODEL = ("faces.onnx", "5" * 64)


def gather(count: int, seed: int = 0, photos: int = 5) -> tuple[Gallery, People, np.ndarray]:
    people = People(seed)
    known = people.meet(count)
    names = [f"name{number:03d}" for number in range(count) for _ in range(photos)]
    return make_gallery(names, people.photograph(known, photos), *MODEL), people, known


def faces_rows(*pictures: list[np.ndarray | None] | None) -> pa.Table:
    """Return a table of schema "faces": the vectors of the faces of each picture; None: it could not be looked at."""
    found = [
        None
        if vectors is None
        else [
            {
                "score": 0.9,
                "box": [1, 2, 30, 40],
                "landmarks": [],
                "vector": None if vector is None else vector.astype(np.float16),
                "name": None,
            }
            for vector in vectors
        ]
        for vectors in pictures
    ]
    errors = [None if vectors is not None else "damaged" for vectors in pictures]
    columns = {"media_id": [str(at) for at in range(len(found))], "faces_found": found, "faces_error": errors}
    return pa.table(columns, schema=arrow_schema("faces"))


def names_of(table: pa.Table) -> list[list[str | None] | None]:
    assert table.schema == arrow_schema("faces")
    return [None if faces is None else [face["name"] for face in faces] for faces in table["faces_found"].to_pylist()]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 5, 12, 40]), st.sampled_from([0.0, 0.3, 0.7]))
def test_strangers_get_no_name_and_friends_get_theirs(seed: int, count: int, alike: float) -> None:
    people = People(seed, alike)
    known = people.meet(count)
    names = [f"{number:02d}" for number in range(count) for _ in range(4)]
    gallery = make_gallery(names, people.photograph(known, 4), *MODEL)
    named = gallery.recognise(people.photograph(people.meet(4000), 1)) >= 0
    assert named.mean() <= 3 * FALSE_NAMES
    right = gallery.recognise(people.photograph(known, 10)) == np.repeat(np.arange(count), 10)
    assert right.mean() > 0.9


@given(st.lists(st.floats(0, 0.7), min_size=2, max_size=60), st.floats(0, 0.25), st.integers(2, 300), st.integers(1, 300))
def test_the_threshold_rises_with_what_strangers_reach(scores: list[float], more: float, names: int, fewer: int) -> None:
    strangers = np.array(scores)
    low, high = choose_threshold(strangers, names), choose_threshold(strangers + more, names)
    assert np.median(strangers) < low <= high + 1e-9 and high <= 1
    assert choose_threshold(np.array([]), max(names, fewer)) >= choose_threshold(np.array([]), min(names, fewer)) > 0.5


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_photos_does_not_matter(random: Any) -> None:
    people = People(3)
    vectors = people.photograph(people.meet(6), 3)
    names = [name for name in "fbdace" for _ in range(3)]
    order = list(range(len(names)))
    random.shuffle(order)
    first, again = (make_gallery([names[at] for at in some], vectors[some], *MODEL) for some in (sorted(order), order))
    assert first.names == again.names == tuple("abcdef")
    assert abs(first.threshold - again.threshold) < 1e-6
    faces = people.photograph(people.meet(5), 4)
    assert (first.recognise(faces) == again.recognise(faces)).all()


def test_two_names_of_one_face_give_none() -> None:
    people = People(4)
    known = people.meet(30)
    twins = np.concatenate([known, known[:1]])
    names = [f"{number:02d}" for number in range(31) for _ in range(4)]
    gallery = make_gallery(names, people.photograph(twins, 4), *MODEL)
    found = gallery.recognise(people.photograph(known, 6)).reshape(30, 6)
    assert (found[0] == -1).mean() > 0.5 and (found[1:] == np.arange(1, 30)[:, None]).mean() > 0.95
    worth = assess(gallery)
    assert [pair["names"] for pair in worth["alike"]] == [["00", "30"]]
    assert worth["alike"][0]["score"] > 0.6


def test_a_photo_under_the_wrong_name_is_told() -> None:
    people = People(5)
    vectors = people.photograph(people.meet(10), 6)
    names = [f"{number:02d}" for number in range(10) for _ in range(6)]
    names[0] = "07"
    worth = assess(make_gallery(names, vectors, *MODEL))
    assert [(odd["name"], odd["looks_like"]) for odd in worth["odd"]] == [("07", "00")]
    assert worth["alike"] == []
    assert worth["names"][1] == {"name": "01", "faces": 6, "recognised": 6}
    assert worth["own"]["q50"] > 0.6 > 0.4 > worth["strangers"]["q95"]
    assert worth["recognised"] > 0.95 and worth["misnamed"] < 0.02


def test_one_photo_a_name_is_enough_and_says_nothing_of_itself() -> None:
    gallery, _, known = gather(3, photos=1)
    worth = assess(gallery)
    assert worth["own"] is worth["recognised"] is None and worth["strangers"] is not None
    assert [name["recognised"] for name in worth["names"]] == [None] * 3
    assert (gallery.recognise(known) == np.arange(3)).all()


def test_a_large_gallery_is_assessed_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weibotag.vision.face_gallery.MOST_STRANGERS", 500_000)
    count, photos = 1500, 6
    people = People(6)
    vectors = people.photograph(people.meet(count), photos)
    names = [f"{number:04d}" for number in range(count) for _ in range(photos)]
    all_cosines = len(vectors) * count * vectors.itemsize
    tracemalloc.start()
    gallery = make_gallery(names, vectors, *MODEL)
    worth = assess(gallery)
    found = gallery.recognise(vectors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < all_cosines
    assert (found == gallery.owners).mean() > 0.95 and worth["recognised"] > 0.9 and worth["misnamed"] < 0.01


def test_faces_that_are_held_against_names_in_several_lots_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, people, _ = gather(9)
    faces = people.photograph(people.meet(20), 1)
    worth, found = assess(gallery), gallery.recognise(faces)
    monkeypatch.setattr("weibotag.vision.face_gallery.ROWS", 7)
    assert assess(gallery) == worth and (gallery.recognise(faces) == found).all()


def test_names_stand_at_their_faces_whatever_is_between() -> None:
    gallery, people, known = gather(8)
    one, two = people.photograph(known[2:4], 1)
    stranger = people.meet(1)[0]
    table = faces_rows([one, stranger], None, [], [None, two], [stranger], [two, None, one])
    expected = [["name002", None], None, [], [None, "name003"], [None], ["name003", None, "name002"]]
    named = name_faces(table, gallery)
    assert names_of(named) == expected
    assert named.drop_columns("faces_found") == table.drop_columns("faces_found")
    assert named["faces_found"].to_pylist()[0][0]["box"] == [1, 2, 30, 40]
    assert names_of(name_faces(table.slice(3, 2), gallery)) == expected[3:5]
    chunked = pa.concat_tables([table.slice(2), table.slice(0, 2)])
    assert names_of(name_faces(chunked, gallery)) == expected[2:] + expected[:2]
    assert names_of(name_faces(faces_rows(None, [], [None]), gallery)) == [None, [], [None]]
    assert names_of(name_faces(table.slice(0, 0), gallery)) == []
    # A name of an older gallery does not stay.
    other = make_gallery(["x"] * 3, people.photograph(people.meet(1), 3), *MODEL)
    assert names_of(name_faces(named, other)) == [None if names is None else [None] * len(names) for names in expected]


def test_a_gallery_is_read_as_it_was_saved(tmp_path: Path) -> None:
    gallery, people, known = gather(6)
    gallery.save(tmp_path / "some.gallery")
    again = read_gallery(tmp_path / "some.gallery")
    assert (again.names, again.threshold, again.model, again.digest) == (gallery.names, gallery.threshold, *MODEL)
    assert np.abs(again.vectors - gallery.vectors).max() < 1e-3
    faces = people.photograph(known, 5)
    assert (again.recognise(faces) == gallery.recognise(faces)).all()
    assert open_gallery(tmp_path / "some.gallery") is open_gallery(tmp_path / "some.gallery")


def test_what_is_no_gallery_is_said_in_one_line(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "some.gallery"
    with pytest.raises(RequestError, match="expected a gallery: make one"):
        read_gallery(path)
    with pytest.raises(RequestError, match="expected a gallery: make one"):
        open_gallery(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(RequestError, match="no safetensors that can be read"):
        read_gallery(path)
    save_file({"vectors": np.zeros((1, 4), np.float32)}, path)
    with pytest.raises(RequestError, match="nothing says that it is a gallery"):
        read_gallery(path)
    gather(2)[0].save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RequestError, match="no safetensors that can be read"):
        read_gallery(path)


def test_a_gallery_of_another_model_is_refused_naming_both(tmp_path: Path) -> None:
    gallery = gather(2)[0]
    (tmp_path / "other.onnx").write_bytes(b"weights")
    with pytest.raises(RequestError, match=r"faces\.onnx \(5{12}\).* other\.onnx \([0-9a-f]{12}\)"):
        gallery.check_model(tmp_path / "other.onnx")
    with pytest.raises(RequestError, match="has none"):
        gallery.check_model(None)


def test_a_name_that_is_removed_is_gone_and_stays_out(tmp_path: Path) -> None:
    path = tmp_path / "some.gallery"
    gallery, people, known = gather(7)
    gallery.save(path)
    assert remove_name(path, "name003") == 5
    left = read_gallery(path)
    assert "name003" not in left.names and len(left.names) == 6 and len(left.vectors) == 30
    found = left.recognise(people.photograph(known, 4)).reshape(7, 4)
    assert (found[3] == -1).all() and (found[6] == 5).all()
    log = log_of(path).read_text(encoding="utf-8")
    assert "name003" not in log and hash_name("name003") in log and "5 faces" in log and log.count("\n") == 1
    assert list_removed(path) == {hash_name("name003")}
    with pytest.raises(RequestError, match="did you mean 'name002'"):
        remove_name(path, "name02")
    for name in left.names:
        remove_name(path, name)
    empty = read_gallery(path)
    assert empty.names == () and (empty.recognise(known) == -1).all() and assess(empty)["names"] == []


def test_a_named_face_speaks_for_the_tag_of_that_name(tmp_path: Path) -> None:
    taxonomy = tmp_path / "taxonomy.csv"
    taxonomy.write_text(
        "id,parent_id,name,aliases,keywords\nstars,,明星,,\nandy,stars,刘德华,Andy Lau;华仔,\nfaye,stars,王菲,,\n",
        encoding="utf-8",
    )
    tagger = RulesScorer(load(taxonomy))
    words = ["刘德华", "Andy Lau", "人脸"]
    said = [[{"word": word, "kind": "face", "score": 0.9, "media_id": "m", "box": None}] for word in words]
    columns = {name: pa.array([""] * 3) for name in ("post_id", "text", "author", "channel")}
    scores = tagger.raw_scores(pa.table({**columns, "wordings": pa.array(said)})).toarray()
    ids = list(tagger.taxonomy.ids)
    assert (scores[:2, ids.index("andy")] > 0.5).all() and (scores[:2, ids.index("stars")] > 0.5).all()
    assert scores[2].max() == 0 and scores[:, ids.index("faye")].max() == 0


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    folder = tmp_path / "stars"
    for who, name in enumerate(["Andy", "刘德华", "王菲", "D"]):
        for _ in range(4):
            save_photo(folder / name, who, 1)
    save_photo(folder / "Andy", 0, 2)
    save_photo(folder / "刘德华", 1, 2)
    save_photo(folder / "王菲", 2, 0)
    save_photo(folder / "王菲", 2, 1, 12)
    (folder / "D" / "note.txt").write_text("no photo")
    (folder / "D" / ".hidden").write_text("not looked at")
    (folder / "D" / "empty.jpg").touch()
    (folder / "D" / "twin.png").write_bytes((folder / "D" / "0.png").read_bytes())
    (folder / "王菲" / "both.png").write_bytes((folder / "Andy" / "3.png").read_bytes())
    (folder / "loose.png").write_bytes((folder / "D" / "1.png").read_bytes())
    return folder


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DrawnFaces:
    stage = DrawnFaces(tmp_path, People(9))
    monkeypatch.setattr("weibotag.extraction.settings.Pipeline.make_stage", lambda *_: stage)
    return stage


def test_a_gallery_is_built_of_the_one_large_face_of_each_photo(stars: Path, drawn: DrawnFaces) -> None:
    gallery, photos = build_gallery(stars, drawn, quiet=True)  # type: ignore[arg-type]
    assert gallery.names == ("Andy", "D", "刘德华", "王菲")
    assert np.bincount(gallery.owners).tolist() == [3, 4, 5, 4]
    assert gallery.model == "faces.onnx"
    gallery.check_model(drawn.face_model())
    reasons = {str(photo.path.relative_to(stars)): photo.reason or "" for photo in photos}
    left_out = {path: reason for path, reason in reasons.items() if reason}
    for path, reason in {
        "Andy/4.png": "two faces of about the same size",
        "Andy/3.png": "stands under Andy and 王菲",
        "王菲/both.png": "stands under Andy and 王菲",
        "王菲/4.png": "no face found",
        "王菲/5.png": "too small (12 pixels",
        "D/empty.jpg": "empty",
        "D/twin.png": "the same file as 0.png",
        "D/note.txt": "",
        "loose.png": "beside the folders",
    }.items():
        assert reason in left_out.pop(path, ""), path
    # Its bytes stand beside the folders too, which says nothing.
    assert reasons["D/1.png"] == "" and not left_out and not any(".hidden" in path for path in reasons)


def test_a_folder_without_faces_is_refused(tmp_path: Path, drawn: DrawnFaces, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="no such folder"):
        build_gallery(tmp_path / "nowhere", drawn, quiet=True)  # type: ignore[arg-type]
    (tmp_path / "stars").mkdir()
    with pytest.raises(RequestError, match="it is empty"):
        build_gallery(tmp_path / "stars", drawn, quiet=True)  # type: ignore[arg-type]
    save_photo(tmp_path / "stars" / "A", 1, 0)
    with pytest.raises(RequestError, match="no face found"):
        build_gallery(tmp_path / "stars", drawn, quiet=True)  # type: ignore[arg-type]
    monkeypatch.setattr(drawn, "process", lambda frames: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_gallery(tmp_path / "stars", drawn, quiet=True)  # type: ignore[arg-type]
    assert not drawn.is_open
    blind = SimpleNamespace(face_model=lambda: None)
    with pytest.raises(RequestError, match="weibotag models pull"):
        build_gallery(tmp_path / "stars", blind, quiet=True)  # type: ignore[arg-type]


def test_the_commands_build_show_and_remove(stars: Path, drawn: DrawnFaces, tmp_path: Path) -> None:
    out = tmp_path / "stars.gallery"

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["faces", "gallery", *words])

    built = run("build", str(stars), "-o", str(out), "--json", "--quiet")
    assert built.exit_code == 0, built.output
    worth = json.loads(built.stdout)
    assert worth["faces"] == 16 and len(worth["left_out"]) == 9 and 0.4 < worth["threshold"] < 0.8
    told = run("build", str(stars), "-o", str(out))
    assert "4 names, 16 faces" in told.stderr and "no face found" in told.stderr and told.stdout == ""
    shown = run("show", str(out))
    assert "刘德华: 5 faces" in shown.stdout
    assert run("remove", str(out), "刘德华").exit_code == 0
    names = json.loads(run("show", str(out), "--json").stdout)["names"]
    assert [name["name"] for name in names] == ["Andy", "D", "王菲"]
    again = json.loads(run("build", str(stars), "-o", str(out), "--json", "--quiet").stdout)
    assert [name["name"] for name in again["names"]] == ["Andy", "D", "王菲"]
    assert sum("removed from this gallery" in photo["reason"] for photo in again["left_out"]) == 5


# Clips of one person each, by what is signed in them.
CLIPS = {
    "one": ["again", "help", "yes"],
    "two": ["bird", "sorry", "thanks"],
    "three": ["learn", "school", "walk"],
    "four": ["eat", "night", "sister"],
}
STRANGER = ["hungry", "want"]


def frame_of(clip: str, share: float) -> Image.Image:
    import av

    with av.open(str(SHARED / "data" / "videos" / "asl_gestures" / f"{clip}.mkv")) as container:
        frames = list(container.decode(video=0))
    return Image.fromarray(frames[int(share * len(frames))].to_ndarray(format="rgb24"))


def test_people_of_clips_are_known_again_and_strangers_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (SHARED / "data" / "videos").is_dir() or not (SHARED / "models" / "mobilefacenet.onnx").is_file():
        pytest.skip(f"no clips or no face model in {SHARED}: set WEIBOTAG_SHARED to the folder of real data")
    monkeypatch.setenv("WEIBOTAG_MODELS", str(SHARED / "models"))
    for name, clips in CLIPS.items():
        (tmp_path / "people" / name).mkdir(parents=True)
        for clip in clips[:2]:
            frame_of(clip, 0.5).save(tmp_path / "people" / name / f"{clip}.png")
    stage: Any = Pipeline().make_stage("faces")
    gallery, photos = build_gallery(tmp_path / "people", stage, quiet=True)
    assert len(photos) == len(gallery.vectors) == 8 and 0.55 < gallery.threshold < 0.8
    gallery.check_model(stage.face_model())
    street = Image.open(SHARED / "models" / "sample_bus.jpg").convert("RGB")
    pictures = [*(frame_of(clips[2], 0.4) for clips in CLIPS.values()), *(frame_of(clip, 0.4) for clip in STRANGER), street]
    stage.open()
    table = stage.process(frames_table([Frame(str(at), np.asarray(picture)) for at, picture in enumerate(pictures)]))
    stage.close()
    assert names_of(table) == [[None]] * 6 + [[None, None]]
    assert names_of(name_faces(table, gallery)) == [["one"], ["two"], ["three"], ["four"], [None], [None], [None, None]]
