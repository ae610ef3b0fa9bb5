"""No output takes the place of an input or of another output, and what can't be read or written is found out first."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from commands import ask, shell
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.core import TyperGroup

from weibotag.cli.command import Command, Later, _find, _list_named, _list_parameters, check_given
from weibotag.cli.main import app
from weibotag.core.errors import RequestError
from weibotag.core.files import MODEL, atomic, replace_folder
from weibotag.core.option import Input, Output
from weibotag.core.places import list_places


def every_command(group: Any = None) -> Iterator[Command]:
    import typer

    for command in (group or typer.main.get_command(app)).commands.values():
        command = command.load() if isinstance(command, Later) else command
        if isinstance(command, TyperGroup):
            yield from every_command(command)
        else:
            yield command


def test_every_option_that_is_a_path_says_whether_it_is_read_or_written() -> None:
    for command in every_command():
        for name, annotation, _ in _list_parameters(command.answer):
            kinds = str(annotation.__origin__)
            if "Path" in kinds or name in ("posts", "out", "train" if command.name == "evaluate" else "", "earlier"):
                assert _find(annotation, Input | Output), f"{command.name} {name}"
        assert get_type_hints(command.answer)


@pytest.fixture
def files(folder: Path) -> Path:
    """Go to a folder with a file or folder of each kind; what is in them is of no matter: nothing gets so far."""
    for name in (
        "kw.csv",
        "tags.csv",
        "vectors.parquet",
        "codes.safetensors",
        "old.csv",
        "plan.json",
        "stop.csv",
        "g.gallery",
    ):
        Path(name).write_text("mine")
    for name in ("model", "audit", "map", "body", "many"):
        Path(name).mkdir()
    shutil.copy("posts.csv", "many/a.csv")
    for name in ("model/model.json", "body/body.json", "audit/proposals.csv", "map/weights.safetensors"):
        Path(name).write_text("{}")
    shutil.copy("tree.csv", "model/taxonomy.csv")
    os.symlink("posts.csv", "link.csv")
    os.link("posts.csv", "hard.csv")
    os.symlink("model", "other")
    os.symlink("../kept.csv", "many/b.csv")
    Path("kept.csv").write_text("mine")
    return folder


@pytest.mark.parametrize("words", [line.split() for line in """
tag posts.csv -t tree.csv -o posts.csv
tag posts.csv -t tree.csv -o tree.csv
tag posts.csv -t tree.csv -o link.csv
tag posts.csv -t tree.csv -o hard.csv
tag link.csv -t tree.csv -o posts.csv
tag posts.csv -t tree.csv -o many/../posts.csv
tag many -t tree.csv -o many/out.csv
tag many -t tree.csv -o kept.csv
tag many/*.csv -t tree.csv -o many/out.csv
tag posts.csv -t tree.csv -o out.csv --run many/../posts.csv
tag posts.csv -t tree.csv -o out.csv --run out.csv
tag posts.csv -t tree.csv -o run/out.csv --run run
tag posts.csv -m model -o model/taxonomy.csv
tag posts.csv -m other -o model/new.csv
tag posts.csv -m model -o other/new.csv
tag posts.csv -m model -o out.csv --run model/run
tag posts.csv -m model -o out.csv --store posts.csv
plan posts.csv -m model -o posts.csv
plan posts.csv -m model -o p.json --plot p.json
plan posts.csv -m model -o model/model.json
train posts.csv -t tree.csv -o .
train posts.csv -t model/taxonomy.csv -o model
train posts.csv -t tree.csv -o posts.csv
train posts.csv -t tree.csv -o body --start body
pretrain posts.csv -o model
pretrain posts.csv -o many
ocr posts.csv -o posts.csv
wordings posts.csv -m model -o model/w.parquet
similarity posts.csv -m body -o body/s.csv
faces posts.csv --gallery g.gallery -o g.gallery
faces gallery build many -o many/x.gallery
export tags.csv -o tags.csv
keywords extract posts.csv -o posts.csv
keywords extract posts.csv -o old.csv --earlier old.csv
keywords extract posts.csv -o stop.csv --stop-words stop.csv
keywords cluster kw.csv --posts posts.csv -o kw.csv
keywords cluster kw.csv --posts posts.csv -o posts.csv
keywords cluster kw.csv --posts posts.csv -o old.csv --old old.csv
keywords map posts.csv -m map -o posts.csv
keywords map posts.csv -m map -o map/keywords.parquet
keywords map train posts.csv -o many
keywords export tags.csv -o d.parquet --dictionary d.parquet
keywords export tags.csv -o o.libsvm --dictionary o.libsvm.ids
keywords export tags.csv -o o.parquet --dictionary tags.csv
keywords export tags.csv -o vectors.parquet --dictionary d.parquet --codes vectors.parquet
codes fit vectors.parquet -o vectors.parquet
codes fit vectors.parquet -o codes.safetensors --align codes.safetensors
codes apply vectors.parquet -m codes.safetensors -o vectors.parquet
taxonomy apply audit posts.csv -t tree.csv -o audit
taxonomy apply audit posts.csv -t tree.csv -o .
taxonomy audit many -t tree.csv -o many
compare posts.csv -t tree.csv -o posts.csv
""".strip().splitlines()], ids=" ".join)  # fmt: skip
def test_an_output_in_the_place_of_something_else_is_refused(files: Path, words: list[str]) -> None:
    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and "store" not in path.parts}

    before = everything()
    done = ask(*words)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert everything() == before


def test_a_pipeline_file_may_read_what_it_wrote_before_and_write_over_nothing_else(files: Path) -> None:
    train, tag = (
        '[train]\nposts = "posts.csv"\ntaxonomy = "tree.csv"\nmodel = "new"',
        '[tag]\nposts = "posts.csv"\nmodel = "new"',
    )
    Path("p.toml").write_text(f'{train}\n{tag}\nout = "tree.csv"\n', encoding="utf-8")
    done = ask("run", "p.toml")
    assert done.exit_code == 2 and "tree.csv: is also read, as --taxonomy" in done.stderr, done.stderr
    assert not Path("new").exists() and not Path("new.run").exists()


@pytest.mark.parametrize(("words", "said"), [
    ("tag posts.csv -t tree.csv -o scene.csv", "--out scene.csv: is a picture or a clip"),
    ("tag posts.csv -t tree.csv -o clip.csv", "--out clip.csv: is a picture or a clip"),
    ("plan posts.csv -m model -o p.json --plot scene.png", "--plot scene.png: is a picture or a clip"),
    ("compare posts.csv -t tree.csv -o compared", "--out compared/compare.png: is a picture or a clip"),
    ("codes fit vectors.parquet -o scene.png", "--out scene.png: is a picture or a clip"),
])  # fmt: skip
def test_an_output_in_the_place_of_a_picture_is_refused(files: Path, words: str, said: str) -> None:
    Path("compared").mkdir()
    for name in ("scene.png", "scene.csv", "compared/compare.png"):
        Image.new("RGB", (9, 9)).save(name, "PNG")
    Path("clip.csv").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isom")
    done = ask(*words.split())
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    with Image.open("scene.png") as picture:
        assert picture.size == (9, 9)


def test_texts_and_plots_of_before_are_replaced(files: Path) -> None:
    # Letters that a transport stream has at its packets, and a QuickTime film at its start.
    Path("letters.csv").write_text("G" * 800)
    Path("film.csv").write_text("1234moov")
    about = PngInfo()
    about.add_text("Software", "Matplotlib version3.10")
    Image.new("RGB", (9, 9)).save("plot.png", pnginfo=about)
    check_given(list_places(("--out", Output(), name) for name in ("letters.csv", "film.csv", "plot.png")))


def test_a_file_that_the_shell_gives_as_stdout_is_an_output(files: Path) -> None:
    was = Path("posts.csv").read_bytes()
    with open("posts.csv", "ab") as taken:
        done = shell("tag", "posts.csv", "-t", "tree.csv", "--words-only", "-o", "-", stdout=taken)
    assert done.returncode == 2 and "--out /dev/stdout: is also read, as POSTS posts.csv" in done.stderr, done.stderr
    assert Path("posts.csv").read_bytes() == was
    with open("out.jsonl", "ab") as free:
        assert shell("tag", "posts.csv", "-t", "tree.csv", "--words-only", "-o", "-", "-q", stdout=free).returncode == 0
    assert Path("out.jsonl").stat().st_size


def test_a_file_that_the_shell_gives_as_stdin_is_an_input(files: Path) -> None:
    with Path("posts.csv").open() as given:
        done = shell("tag", "-", "-t", "tree.csv", "--words-only", "-o", "posts.csv", stdin=given)
    assert done.returncode == 2 and "--out posts.csv: is also read, as POSTS /dev/stdin" in done.stderr, done.stderr
    with Path("posts.csv").open() as given:
        assert shell("tag", "-", "-t", "tree.csv", "--words-only", "-o", "out.csv", "-q", stdin=given).returncode == 0


@pytest.mark.parametrize(("line", "said"), [
    ('gallery = "g.gallery"', "--dictionary link: is also read, as gallery of the pipeline"),
    ('[detect]\nmodel = "g.gallery#sha256=00"', "--dictionary link: is also read, as model of the pipeline"),
    ('[detect]\nbranch = "food"\ntaxonomy = "g.gallery"', "--dictionary link: is also read, as taxonomy of the pipeline"),
])  # fmt: skip
def test_what_a_pipeline_names_is_an_input(files: Path, line: str, said: str) -> None:
    Path("own").mkdir()
    shutil.move("g.gallery", "own/g.gallery")
    Path("own/p.toml").write_text(line, encoding="utf-8")
    os.symlink("own/g.gallery", "link")
    given = [*_list_named("own/p.toml"), ("--dictionary", Output(), "link")]
    with pytest.raises(RequestError, match=said):
        check_given(list_places(given))
    Path("q.toml").write_text('gallery = "kw.csv"\n[tag]\nposts = "posts.csv"\ntaxonomy = "tree.csv"\nout = "kw.csv"\n')
    done = ask("run", "q.toml")
    assert done.exit_code == 2 and "kw.csv: is also read, as gallery of the pipeline" in done.stderr, done.stderr


def test_a_folder_with_something_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with replace_folder(model, MODEL) as fresh:
        (fresh / "model.json").write_text('{"files": {"part/a.bin": ""}}')
        (fresh / "part").mkdir()
        (fresh / "part" / "a.bin").write_text("one")
    with replace_folder(model, MODEL) as fresh:
        (fresh / "model.json").write_text('{"files": {}}')
    assert sorted(path.name for path in model.rglob("*")) == ["model.json"]
    (model / "notes.txt").write_text("mine")
    with pytest.raises(Exception, match=r"holds notes\.txt, which would be lost"), replace_folder(model, MODEL) as fresh:
        (fresh / "model.json").write_text("{}")
    assert (model / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(("mask", "rights"), [(0o022, 0o644), (0o002, 0o664), (0o027, 0o640), (0o077, 0o600)])
def test_rights_are_those_that_the_umask_leaves(tmp_path: Path, mask: int, rights: int) -> None:
    before = os.umask(mask)
    try:
        with replace_folder(tmp_path / "model", MODEL) as fresh:
            (fresh / "model.json").touch(0o600)
            (fresh / "part").mkdir()
            (fresh / "part" / "a").touch(0o600)
        with atomic(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {rights}
    assert (tmp_path / "model" / "part").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize(("words", "said"), [
    ("tag posts.csv -m model -o open/out.csv", "--model model: model/part can't be read by this user"),
    ("tag posts.csv -t tree.csv -o closed/out.csv", "--out closed/out.csv: nothing can be written in"),
    ("tag posts.csv -t tree.csv -o closed/new/out.csv", "--out closed/new/out.csv: nothing can be written in"),
    ("ocr posts.csv -o open/out.csv --run closed/run", "--run closed/run: nothing can be written in"),
    ("keywords export tags.csv -o open/o.vw --dictionary closed/d.parquet", "--dictionary closed/d.parquet: nothing can"),
])  # fmt: skip
def test_what_another_user_may_not_do_is_found_out_first(
    files: Path, words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rights in (("open", 0o777), ("closed", 0o755)):
        Path(name).mkdir()
        Path(name).chmod(rights)
    Path("model/part").touch(0o600)
    monkeypatch.setattr(os, "access", lambda path, rights: Path(path).stat().st_mode & rights == rights)
    done = ask(*words.split())
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert not list(Path("open").iterdir())
