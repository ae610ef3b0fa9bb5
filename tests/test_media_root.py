"""Posts name pictures, and nothing but pictures in the media root is opened."""

import hashlib
import os
from pathlib import Path

import pytest
from commands import ask, draw
from hypothesis import given
from hypothesis import strategies as st

from weibotag.vision.media.pictures import OUTSIDE, MediaLimits, MediaRoot, hash_file

SECRET = b"top secret bytes"
ABROAD = (
    "../elsewhere/secret",
    "../elsewhere/absent",
    "linked/b.png",
    "linked/absent",
    "secret.png",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/environ",
    "/proc/self/root/etc/passwd",
    "own/../../elsewhere/b.png",
    "inner/../../elsewhere/b.png",
    "..",
)


@pytest.fixture
def place(folder: Path) -> Path:
    """Go to a folder that has `posts/`, with a picture and links, and beside it what posts must not see."""
    (folder / "posts" / "own").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    draw(folder / "posts" / "own" / "a.png", "a")
    draw(folder / "elsewhere" / "b.png", "b")
    (folder / "elsewhere" / "secret").write_bytes(SECRET)
    (folder / "posts" / "linked").symlink_to(folder / "elsewhere")
    (folder / "posts" / "secret.png").symlink_to("../elsewhere/secret")
    (folder / "posts" / "inner").symlink_to("own")
    (folder / "posts" / "loop").symlink_to("loop")
    os.mkfifo(folder / "posts" / "pipe.png")
    return folder


def reason(place: Path, name: str, root: str = "posts") -> str | None:
    return hash_file(place / "posts" / name, MediaLimits(), MediaRoot(place / root))[1]


@pytest.mark.parametrize("name", ABROAD)
def test_what_lies_outside_is_not_opened_and_the_reason_tells_nothing_of_it(place: Path, name: str) -> None:
    assert reason(place, name) == OUTSIDE


@pytest.mark.parametrize("name", ["own/a.png", "inner/a.png", "./own/../own/a.png"])
def test_what_lies_inside_is_read_whatever_way_leads_there(place: Path, name: str) -> None:
    assert reason(place, name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe.png", "not a regular file"),
        ("own", "a folder, not a file"),
        ("absent.png", "no such file"),
        ("a\0b.png", "not a usable path"),
        ("\ud800.png", "not a usable path"),
        ("长" * 200 + ".png", "file name too long"),
        ("../" * 1_000_000 + "x", "file name too long"),
        ("loop", "too many levels of symbolic links"),
    ],
)
def test_names_that_are_no_file_have_a_reason(place: Path, name: str, said: str) -> None:
    assert said in str(reason(place, name))


def test_devices_and_the_kernels_files_are_no_pictures_even_where_all_is_allowed(place: Path) -> None:
    assert reason(place, "/dev/zero", "/") == "not a regular file"
    assert "empty" in str(reason(place, "/proc/self/environ", "/"))
    assert reason(place, "../elsewhere/b.png", "/") is None


@given(
    st.lists(st.sampled_from(["..", ".", "own", "linked", "inner", "a.png", "secret", "elsewhere", "posts", ""]), max_size=6)
)
def test_a_path_is_inside_as_the_system_resolves_it(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    base = tmp_path_factory.getbasetemp() / "resolved"
    if not base.exists():
        (base / "posts" / "own").mkdir(parents=True)
        (base / "elsewhere").mkdir()
        (base / "posts" / "linked").symlink_to(base / "elsewhere")
        (base / "posts" / "inner").symlink_to("own")
    path = base / "posts" / "/".join(step for step in steps if step)
    root, inside = MediaRoot(base / "posts"), Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base / "posts"))
    for _ in range(2):
        # The folder itself is no picture.
        assert root.holds(path) == inside or os.path.realpath(path) == os.path.realpath(base / "posts")


def test_a_command_opens_nothing_outside_unless_it_is_told_where(place: Path) -> None:
    names = ["own/a.png", str(place / "elsewhere" / "b.png"), "../elsewhere/secret", "http://a.b/c.png"]
    (place / "posts" / "posts.csv").write_text("post_id,images\n1," + ";".join(names) + "\n", encoding="utf-8")
    command = ["faces", "posts/posts.csv", "--workers", "0", "-q", "-o"]
    assert ask(*command, "own.csv").exit_code == 0
    said = Path("own.csv").read_text(encoding="utf-8-sig")
    assert said.count("--media-root") == 2 and said.count("a web address") == 1
    for content in (SECRET, (place / "elsewhere" / "b.png").read_bytes()):
        assert hashlib.sha256(content).hexdigest() not in said
        assert content[:8].hex(" ") not in said
    assert ask(*command, "all.csv", "--media-root", str(place / "elsewhere")).exit_code == 0
    said = Path("all.csv").read_text(encoding="utf-8-sig")
    assert hashlib.sha256((place / "elsewhere" / "b.png").read_bytes()).hexdigest() in said
    # The folder that is named takes the place of the posts' own.
    assert said.count("--media-root") == 1


@pytest.mark.parametrize("root", ["gone", "elsewhere/secret"])
def test_a_media_root_that_is_no_folder_is_told_before_any_work(place: Path, root: str) -> None:
    (place / "posts" / "posts.csv").write_text("post_id,images\n1,own/a.png\n", encoding="utf-8")
    answer = ask("wordings", "posts/posts.csv", "-o", "told.parquet", "--media-root", root, "-q")
    assert answer.exit_code == 2 and "no such folder" in answer.stderr and answer.stderr.count("\n") == 1
    assert not (place / "told.parquet").exists()


def test_a_pipeline_file_names_the_media_root_from_its_own_folder(place: Path) -> None:
    (place / "posts" / "posts.csv").write_text("post_id,images\n1,linked/b.png\n", encoding="utf-8")
    (place / "look.toml").write_text('media_root = "elsewhere"\n', encoding="utf-8")
    assert ask("faces", "posts/posts.csv", "-p", "look.toml", "--workers", "0", "-q", "-o", "out.csv").exit_code == 0
    assert "--media-root" not in Path("out.csv").read_text(encoding="utf-8-sig")
