"""Several users of one store; each is a process of its own, which only root can start."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from commands import slow_but

from weibotag.core.errors import RequestError
from weibotag.runtime.findings_store import Store
from weibotag.runtime.shared_folder import make_shared

ONE, OTHER, GROUP = 12_001, 12_002, 12_003
START = """
import encodings.ascii, os, sys
from pathlib import Path
import duckdb, filelock, pyarrow as pa
from weibotag.core.errors import RequestError
from weibotag.curation.keywords.feature_export import open_dictionary
from weibotag.extraction.context import open_context
from weibotag.extraction.ingest import open_run
from weibotag.extraction.settings import Pipeline
from weibotag.posts.source import PostsSource
from weibotag.runtime.findings_store import Store
context = lambda store: open_context(Pipeline(stages=()), store.root, 0, True)
# All is imported: the interpreter itself may be where only root can read.
os.setgroups([int(sys.argv[3])]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); os.umask(0o077)
store, ids = Store(Path(sys.argv[1])), pa.array(["a", "b"])
def write(id): store.write("faces", "f", pa.table({"media_id": [id]}))
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to be two users")


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that everybody reaches, of the group of both users."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "store").mkdir()
    os.chown(folder / "store", ONE, GROUP)
    yield folder / "store"
    shutil.rmtree(folder)


def act(user: int, root: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(root), str(user), str(GROUP)], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def rights(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


@pytest.mark.parametrize("mode", slow_but([0o2775], [0o775, 0o2775, 0o3775]))
def test_two_users_write_read_and_merge_what_the_group_may_write(root: Path, mode: int) -> None:
    root.chmod(mode)
    act(ONE, root, "for _ in range(3): write('a')\nstore.compact('faces', 'f', 1)")
    code = "store.prepare({'faces': 'f'})\nfor _ in range(3): write('b')\nstore.compact('faces', 'f', 1)"
    act(OTHER, root, code + "\nprint(len(store.read('faces', 'f', ids)))")
    assert act(ONE, root, "print(store.read('faces', 'f', ids)['media_id'].to_pylist())") == "['a', 'b']"
    folder = root / "faces-f"
    assert folder.stat().st_gid == GROUP and folder.stat().st_mode & 0o070 == 0o070
    for part in folder.iterdir():
        if part.name != "lock":
            assert part.stat().st_gid == GROUP and part.stat().st_mode & 0o060 == 0o060, rights(part)


def test_a_store_that_is_not_the_groups_is_told_before_any_work(root: Path) -> None:
    root.chmod(0o755)
    act(ONE, root, "os.umask(0o022); write('a')")
    said = act(OTHER, root, "try: store.prepare({'faces': 'f'})\nexcept RequestError as error: print(error)")
    assert "can't be written to by this user" in said and "choose another store" in said
    root.chmod(0o775)
    said = act(OTHER, root, "try: store.prepare({'faces': 'f'})\nexcept RequestError as error: print(error)")
    assert "faces-f: can't be written to by this user" in said and "chmod -R g+rwX" in said


def test_who_may_only_read_is_given_what_is_there(root: Path) -> None:
    root.chmod(0o755)
    act(ONE, root, "os.umask(0o022); write('a')")
    assert act(OTHER, root, "print(store.read('faces', 'f', ids)['media_id'].to_pylist())") == "['a']"
    assert act(OTHER, root, "print(store.missing('faces', 'f', ids).to_pylist())") == "['b']"
    (part,) = (root / "faces-f").glob("part-*")
    content = part.read_bytes()
    part.write_bytes(content[:9] + b"x" + content[10:])
    # It can't be set aside, and is passed over.
    assert act(OTHER, root, "print(store.missing('faces', 'f', ids).to_pylist())") == "['a', 'b']"
    assert part.exists()


def test_what_this_user_may_not_read_is_one_line(root: Path) -> None:
    root.chmod(0o755)
    act(ONE, root, "write('a')")
    ask = "\ntry: store.read('faces', 'f', ids)\nexcept RequestError as error: print(error)"
    assert "faces-f: can't be read by this user" in act(OTHER, root, ask)
    (root / "faces-f").chmod(0o755)
    assert "can't be read (Permission denied)" in act(OTHER, root, ask)


def test_a_lock_of_before_that_is_closed_to_others_stops_nobody(root: Path) -> None:
    root.chmod(0o2775)
    act(ONE, root, "for _ in range(3): write('a')")
    (root / "faces-f" / "lock").touch(0o600)
    assert act(OTHER, root, "store.compact('faces', 'f', 1)\nprint(store.sizes()[0][2])") == "3"


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "faces-f").touch()
    with pytest.raises(RequestError, match="expected a folder of the store"):
        make_shared(tmp_path, tmp_path / "faces-f")
    with pytest.raises(RequestError):
        Store(tmp_path).write("faces", "f", pa.table({"media_id": ["a"]}))


def test_two_users_who_ask_for_the_same_on_stdout_have_runs_of_their_own(root: Path) -> None:
    root.chmod(0o2775)
    (root.parent / "posts.csv").write_text("post_id,text\n1,a\n")
    code = """
with open_run("tag", PostsSource(f"{store.root.parent}/posts.csv"), "-", context(store), None, {}) as run:
    print(run.folder)
"""
    places = {act(user, root, code) for user in (ONE, OTHER, ONE)}
    assert len(places) == 2 and {Path(place).parent for place in places} == {root / "runs"}


def test_two_users_export_by_one_dictionary(root: Path) -> None:
    root.chmod(0o2775)
    code = "os.umask(0o022)\nwith open_dictionary(store.root / 'd.parquet') as dictionary: print(len(dictionary))"
    assert (act(ONE, root, code), act(OTHER, root, code), act(ONE, root, code)) == ("0", "0", "0")
    assert (root / ".d.parquet.lock").stat().st_mode & 0o060 == 0o060
