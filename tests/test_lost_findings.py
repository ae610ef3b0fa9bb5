"""Findings that are damaged or gone: looked at again in the same run, or a reason in the row and exit 1."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask
from test_near import paint, save_anew, write_on

from weibotag.extraction import findings, reposts
from weibotag.extraction.context import open_context
from weibotag.extraction.findings import read_findings
from weibotag.extraction.ingest import ingest, link, open_run, read_links
from weibotag.extraction.schedule import look
from weibotag.extraction.settings import Pipeline
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import KeptReceipt
from weibotag.workflows import run_stage

HERE = "--workers", "0", "-q"


def list_parts(stage: str) -> list[Path]:
    return list(Path("store").glob(f"{stage}-*/part-*.parquet"))


def change(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def damage_values(stage: str) -> None:
    """Change a byte of the last column, which no search for ids reads."""
    for part in list_parts(stage):
        column = pq.read_metadata(part).row_group(0).column(pq.read_metadata(part).num_columns - 1)
        change(part, column.data_page_offset + column.total_compressed_size - 3)


def damage_footer(stage: str) -> None:
    for part in list_parts(stage):
        change(part, part.stat().st_size - 40)


def empty(stage: str) -> None:
    for part in list_parts(stage):
        part.write_bytes(b"")


def remove(stage: str) -> None:
    for part in list_parts(stage):
        part.unlink()
        part.parent.rmdir()


def put_another(stage: str) -> None:
    other = list_parts("media" if stage != "media" else "faces")[0]
    for part in list_parts(stage):
        part.write_bytes(other.read_bytes())


DAMAGES = [damage_values, damage_footer, empty, remove, put_another]


@pytest.fixture
def known(pictures: Path) -> Path:
    """Go to a folder whose store knows the faces of all pictures, which are in right.parquet."""
    assert ask("faces", "seen.csv", "-o", "right.parquet", *HERE).exit_code == 0
    return pictures


@pytest.mark.parametrize("stage", ["media", "faces"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_lost_is_looked_at_again_in_the_same_run(known: Path, stage: str, damage: Callable[[str], None]) -> None:
    damage(stage)
    done = ask("faces", "seen.csv", "-o", "out.parquet", *HERE)
    assert done.exit_code == 0, done.stderr
    assert pq.read_table("out.parquet").equals(pq.read_table("right.parquet"))


@pytest.mark.parametrize("stage", ["media", "faces"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_lost_after_the_looking_is_looked_at_again_too(
    known: Path, stage: str, damage: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_and_lose(*asked: object) -> None:
        look(*asked)  # type: ignore[arg-type]
        damage(stage)

    monkeypatch.setattr(run_stage, "look", look_and_lose)
    done = ask("faces", "seen.csv", "-o", "out.parquet", *HERE)
    assert done.exit_code == 0, done.stderr
    assert pq.read_table("out.parquet").equals(pq.read_table("right.parquet"))


def test_what_is_lost_twice_has_its_reason_and_exit_1(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_and_lose(*asked: object) -> None:
        look(*asked)  # type: ignore[arg-type]
        remove("faces")

    monkeypatch.setattr(run_stage, "look", look_and_lose)
    monkeypatch.setattr(findings, "look_at", lambda *asked: None)
    done = ask("faces", "seen.csv", "-o", "out.parquet", *HERE)
    assert done.exit_code == 1
    assert "lost from the store" in done.stderr
    rows = pq.read_table("out.parquet").to_pylist()
    assert all("lost from the store" in row["faces_error"] for row in rows if row["media_id"] and not row["media_error"])


def test_a_post_says_what_was_lost(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("wordings", "seen.csv", "-o", "right.parquet", *HERE).exit_code == 0

    def look_and_lose(*asked: object) -> None:
        look(*asked)  # type: ignore[arg-type]
        Path("sale.png").write_bytes(b"another")
        damage_values("ocr")

    monkeypatch.setattr(run_stage, "look", look_and_lose)
    done = ask("wordings", "seen.csv", "-o", "out.parquet", *HERE)
    assert done.exit_code == 1, done.stderr
    right = {row["post_id"]: row for row in pq.read_table("right.parquet").to_pylist()}
    for row in pq.read_table("out.parquet").to_pylist():
        if row["post_id"] in "ab":
            assert "sale.png: ocr did not look at it: it changed or vanished" in row["wordings_error"]
        else:
            assert row == right[row["post_id"]]


def test_a_run_that_looks_at_some_pictures_gets_back_what_it_knew(known: Path) -> None:
    context = open_context(Pipeline(stages=("faces", "embed")), workers=0, quiet=True, partial=True)
    source = PostsSource("seen.csv")
    with open_run("test", source, "some.parquet", context, None, {}) as run:
        parts = ingest(run, source, None, True, "tags")
        link(run, parts, context)
        links = read_links(run, parts[0])
        context.stats.coverage = context.ask_store(links["file_id"].drop_null().unique())
        _, media, found = read_findings(run, links, context, ["faces", "embed"])
        damage_values("faces")
        remove("media")
        _, media_again, found_again = read_findings(run, links, context, ["faces", "embed"])
    assert media_again.equals(media)
    assert found_again["faces"].equals(found["faces"]) and len(found["faces"])
    # Nothing had looked for vectors, and nothing does now.
    assert len(found_again["embed"]) == 0


def test_reposts_of_a_picture_whose_findings_are_lost_are_looked_at_themselves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reposts, "CHECKED_ONE_IN", 2**33)
    first = write_on(paint(0), "SALE")
    first.save(folder / "sale.png")
    save_anew(first, 0.6, 85).save(folder / "small.png")
    (folder / "first.csv").write_text("post_id,text,images\na,,sale.png\n", encoding="utf-8")
    (folder / "then.csv").write_text("post_id,text,images\nb,,small.png\n", encoding="utf-8")
    assert ask("faces", "first.csv", "-o", "first.parquet", *HERE, "--reuse", "near").exit_code == 0
    context = open_context(Pipeline(stages=("faces",), reuse="near"), workers=0, quiet=True)
    source = PostsSource("then.csv")
    with open_run("test", source, "then.parquet", context, None, {}) as run:
        parts = ingest(run, source, None, True, "tags")
        link(run, parts, context)
        look(run, parts, context)
        own = run.read("links", parts[0])["file_id"].to_pylist()
        given = read_links(run, parts[0])
        assert given["file_id"].to_pylist() != own
        remove("faces")
        links, media, found = read_findings(run, given, context, ["faces"])
        assert links["file_id"].to_pylist() == own == read_links(run, parts[0])["file_id"].to_pylist()
    assert (media["file_id"].to_pylist(), found["faces"]["media_id"].to_pylist()) == (own, own)


@pytest.mark.parametrize("damage", ["cut", "gone", "changed", "another", "folder"])
@pytest.mark.parametrize("kind", ["posts", "links"])
def test_a_damaged_part_of_a_run_is_said_and_the_next_run_starts_anew(
    known: Path, kind: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_and_lose(*asked: object) -> None:
        look(*asked)  # type: ignore[arg-type]
        (part,) = Path("out.parquet.run").glob(f"{kind}/*.parquet")
        content = part.read_bytes()
        if damage == "gone":
            part.unlink()
        elif damage == "folder":
            shutil.rmtree("out.parquet.run")
        elif damage == "changed":
            change(part, len(content) // 3)
        else:
            part.write_bytes(content[:-9] if damage == "cut" else next(Path("store").glob("media-*/*.parquet")).read_bytes())

    monkeypatch.setattr(run_stage, "look", look_and_lose)
    command = "wordings", "seen.csv", "-o", "out.parquet", *HERE
    done = ask(*command)
    assert done.exit_code == 1
    assert "it starts anew" in done.stderr and "Traceback" not in done.stderr
    assert not Path("out.parquet").exists()
    monkeypatch.setattr(run_stage, "look", look)
    assert ask(*command).exit_code == 0
    assert len(pq.read_table("out.parquet")) == 5


def test_receipts_that_cannot_be_read_are_of_parts_that_are_done_again(pictures: Path) -> None:
    context = open_context(Pipeline(stages=()), workers=0, quiet=True)
    with open_run("test", PostsSource("seen.csv"), "out.parquet", context, None, {}) as run:
        run.receipt("tags", "00000", {"status": "ok"})
        run.receipt("tags", "00001", {"status": "ok"})
        (run.folder / "receipts" / "tags" / "00000.json").write_bytes(b'{"status"')
        assert [kept["part"] for kept in run.receipts(KeptReceipt, "tags")] == ["00001"]
        run.write("tags", "00000", pa.table({"a": [1]}))
        assert run.list_parts("tags") == ["00000"]
