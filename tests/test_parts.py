import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import csr_matrix

from weibotag.core.schema import arrow_schema
from weibotag.extraction import jobs
from weibotag.extraction.jobs import link_files, look_at_files, media_fingerprint
from weibotag.features.wordings import Findings, collect_wordings
from weibotag.runtime.findings_store import Store
from weibotag.taggers.answering import list_tags
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.faces import Faces
from weibotag.vision.media.pictures import ELSEWHERE, MediaLimits, MediaRoot, hash_file

ROOT = Path(__file__).parents[1]
LIMITS = MediaLimits()
CONFIG = '{"backend": "haar", "min_score": 0.8}'


@pytest.fixture(scope="module", autouse=True)
def no_open_stages() -> Iterator[None]:
    yield
    jobs.open_stage.cache_clear()


@pytest.fixture(scope="module")
def faces() -> str:
    return Faces(Faces.Config.model_validate_json(CONFIG)).fingerprint()


def draw(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)
    return path


def posts(folder: Path, *images: list[str], videos: tuple[list[str], ...] = ()) -> pa.Table:
    rows = [
        {"post_id": str(n), "text": "", "images": own, "videos": videos[n] if n < len(videos) else [], "folder": str(folder)}
        for n, own in enumerate(images)
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema("posts"))


def job(store: Path, fingerprint: str, files: list[dict[str, Any]]) -> dict[str, Any]:
    stages = [{"name": "faces", "config": CONFIG, "fingerprint": fingerprint}]
    return {"part": "000000", "store": str(store), "limits": {}, "stages": stages, "threads": 1, "tasks": files}


def file_of(path: Path, **more: object) -> dict[str, Any]:
    return {"path": str(path), "file_id": hash_file(path, LIMITS)[0], "stages": ["faces"], "known": False, **more}


def known_media(store: Path) -> list[dict[str, Any]]:
    tables = [pa.parquet.read_table(part) for part in store.glob("media-*/part-*.parquet")]
    return [row for table in tables for row in table.to_pylist()]


def test_pictures_are_found_however_they_are_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "口红 与 面膜" / "图片 1.png", "blue")
    draw(tmp_path / "tricky#1?.png", "green")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    names = ["a.png", str(tmp_path / "a.png"), "口红 与 面膜/图片 1.png", "./口红 与 面膜/../tricky#1?.png"]
    bad = ["folder.jpg", "empty.jpg", "gone.png", "http://wx1.sinaimg.cn/a.jpg", "nul\0.png", "长" * 300 + ".png"]
    table = link_files(posts(tmp_path, names, bad), LIMITS, {})
    assert table.schema.equals(arrow_schema("links"))
    good, failed = table.to_pylist()[: len(names)], table.to_pylist()[len(names) :]
    assert [row["link_error"] for row in good] == [None] * len(names)
    assert good[0]["file_id"] == good[1]["file_id"] == hash_file(tmp_path / "a.png", LIMITS)[0]
    assert len({row["file_id"] for row in good}) == 3
    assert [row["position"] for row in failed] == list(range(len(bad)))
    assert [row["file_id"] for row in failed] == [None] * len(bad)
    said = [row["link_error"] for row in failed]
    assert said[0] == "a folder, not a file"
    assert said[1] == "an empty file (0 bytes)"
    assert said[2] == "no such file"
    assert said[3] == ELSEWHERE
    assert failed[3]["path"] == "http://wx1.sinaimg.cn/a.jpg"
    assert "not a usable path" in said[4]
    assert said[5] == "file name too long"


def test_more_than_nine_pictures_and_clips_keep_their_places(tmp_path: Path) -> None:
    images = [draw(tmp_path / f"{n}.png", f"#0000{n:02x}").name for n in range(18)]
    table = link_files(posts(tmp_path, images, [], videos=(["a.mp4"], ["b.mp4", "c.mp4"])), LIMITS, {})
    rows = [(row["post_id"], row["position"], Path(row["path"]).name, row["link_error"]) for row in table.to_pylist()]
    pictures = [("0", place, name, None) for place, name in enumerate(images)]
    clips = [("0", 18, "a.mp4"), ("1", 0, "b.mp4"), ("1", 1, "c.mp4")]
    assert rows == [*pictures, *((*clip, "no such file") for clip in clips)]


def test_posts_without_media_have_no_links(tmp_path: Path) -> None:
    assert link_files(posts(tmp_path, [], []), LIMITS, {}).equals(arrow_schema("links").empty_table())


def test_a_file_that_many_posts_name_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    asked: list[Path] = []

    def note(path: Path, limits: MediaLimits, root: MediaRoot) -> tuple[str | None, str | None]:
        asked.append(path)
        return hash_file(path, limits, root)

    monkeypatch.setattr(jobs, "hash_file", note)
    known: jobs.HashedFiles = {}
    for _ in range(3):
        assert len(link_files(posts(tmp_path, ["a.png", "a.png"], ["a.png", "b.png"]), LIMITS, known)) == 4
    assert asked == [tmp_path / "a.png", tmp_path / "b.png"]


def test_what_is_found_is_kept_per_frame(tmp_path: Path, faces: str) -> None:
    still = draw(tmp_path / "a.png")
    moving = tmp_path / "b.gif"
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("black", "white", "grey")]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    page = tmp_path / "c.jpg"
    page.write_text("<html><body>404</body></html>")
    receipt = look_at_files(job(tmp_path / "store", faces, [file_of(path) for path in (still, moving, page)]))
    assert (receipt["files"], receipt["frames"], receipt["counts"], receipt["changed"]) == (3, 4, {"faces": 4}, [])
    media = known_media(tmp_path / "store")
    assert [row["media_error"] for row in media] == [None] * 4 + ["not a picture: looks like HTML"]
    kept = Store(tmp_path / "store")
    ids = pa.array([row["media_id"] for row in media])
    assert kept.missing("faces", faces, ids).to_pylist() == [hash_file(page, LIMITS)[0]]


@pytest.mark.parametrize("fate", ["changed", "gone", "a folder"])
def test_a_file_that_is_no_longer_what_was_hashed_is_left_out(tmp_path: Path, faces: str, fate: str) -> None:
    good, bad = draw(tmp_path / "good.png"), draw(tmp_path / "bad.png", "blue")
    files = [file_of(bad), file_of(good)]
    bad.unlink()
    if fate == "changed":
        draw(bad, "green")
    elif fate == "a folder":
        bad.mkdir()
    receipt = look_at_files(job(tmp_path / "store", faces, files))
    assert receipt["changed"] == [str(bad)]
    assert [row["file_id"] for row in known_media(tmp_path / "store")] == [files[1]["file_id"]]


def test_only_the_stages_that_have_not_seen_a_file_look_at_it(tmp_path: Path, faces: str) -> None:
    files = [file_of(draw(tmp_path / "a.png")), file_of(draw(tmp_path / "b.png", "blue"), stages=[])]
    look_at_files(job(tmp_path / "store", faces, files))
    again = look_at_files(job(tmp_path / "store", faces, [{**files[1], "stages": ["faces"], "known": True}]))
    assert again["counts"] == {"faces": 1}
    assert len(known_media(tmp_path / "store")) == 2
    assert len(Store(tmp_path / "store").missing("faces", faces, pa.array([file["file_id"] for file in files]))) == 0


def test_findings_come_before_the_row_that_says_that_a_file_is_known(
    tmp_path: Path, faces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = Store.write

    def note(self: Store, stage: str, fingerprint: str, table: pa.Table) -> None:
        written.append(stage)
        write(self, stage, fingerprint, table)

    monkeypatch.setattr(Store, "write", note)
    look_at_files(job(tmp_path / "store", faces, [file_of(draw(tmp_path / "a.png"))]))
    assert written == ["faces", "media"]


def test_the_name_of_media_rows_changes_with_the_limits() -> None:
    names = {media_fingerprint(limits) for limits in (LIMITS, MediaLimits(max_bytes=1), MediaLimits(max_frames=1))}
    assert len(names) == 3
    assert media_fingerprint(MediaLimits()) in names


def test_a_picture_that_a_post_names_twice_speaks_once(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png")
    shutil.copy(path, tmp_path / "copy.png")
    links = link_files(posts(tmp_path, ["a.png", "a.png", "copy.png"], ["a.png"]), LIMITS, {})
    file_id = links["file_id"][0].as_py()
    media = pa.Table.from_pylist([{"file_id": file_id, "media_id": file_id, "frame": 0}], schema=arrow_schema("media"))
    line = {"text": "口红", "score": 0.9, "box": None}
    face = {"score": 0.9, "box": None, "landmarks": None, "name": None}
    findings = {
        "ocr": pa.Table.from_pylist([{"media_id": file_id, "ocr_lines": [line]}], schema=arrow_schema("ocr")),
        "faces": pa.Table.from_pylist([{"media_id": file_id, "faces_found": [face]}], schema=arrow_schema("faces")),
    }
    known = Findings(media, findings, {}, {}, ("media", "ocr", "detect", "faces"))
    rows = collect_wordings(["0", "1"], links, known).to_pylist()
    for row in rows:
        assert [wording["word"] for wording in row["wordings"]] == ["口红", "人脸"]
        assert row["wordings_error"] is None


@given(
    cells=st.lists(st.lists(st.tuples(st.integers(0, 29), st.integers(1, 3)), max_size=8), min_size=1, max_size=5),
)
def test_tags_come_highest_first_and_parents_before_children(weibo: Taxonomy, cells: list[list[tuple[int, int]]]) -> None:
    dense = np.zeros((len(cells), len(weibo)), np.float32)
    for post, own in enumerate(cells):
        for tag, score in own:
            dense[post, tag] = score / 4
    listed = list_tags(csr_matrix(dense), weibo).to_pylist()
    place = {name: number for number, name in enumerate(weibo.ids)}
    for post, tags in enumerate(listed):
        assert {tag["id"]: tag["score"] for tag in tags} == {
            name: dense[post, number] for name, number in place.items() if dense[post, number]
        }
        keys = [(-tag["score"], weibo.depth[place[tag["id"]]], place[tag["id"]]) for tag in tags]
        assert keys == sorted(keys)
