import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from commands import POSTS, ask, draw, shell

from weibotag.cli.command import Later
from weibotag.cli.main import app
from weibotag.core import errors
from weibotag.runtime.run_folder import Run

README = Path(__file__).parents[1] / "README.md"
# fmt: off
HEAVY = [
    "numpy", "pandas", "pyarrow", "duckdb", "pydantic", "cv2", "onnxruntime", "sklearn", "scipy", "fasttext", "rapidocr",
    "PIL", "torch", "ultralytics", "paddleocr", "transformers",
]
# fmt: on


def list_commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(app)
    command = command.load() if isinstance(command, Later) else command
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        # What a stage does with posts needs no name of its own.
        yield from list_commands(below, path if name == getattr(command, "first", None) else (*path, name))


COMMANDS = dict(list_commands())


# Start, help, completion


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["tag", "--help"], ["--version"]])
def test_nothing_heavy_is_imported_for_help(words: list[str]) -> None:
    code = (
        "import sys\nfrom weibotag.cli.main import main\n"
        f"sys.argv = ['weibotag', *{words}]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert {"weibotag", "typer"} <= loaded
    # Whatever the command, typer reads its options with pydantic.
    assert loaded & set(HEAVY) <= ({"pydantic"} if len(words) > 1 else set())


def test_the_help_of_train_fits_two_screens_and_says_the_basics_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shell("train", "--help").stdout.splitlines()
    assert len(lines) <= 80
    panels = [line.split()[1] for line in lines if line.startswith("╭")]
    assert panels == ["Arguments", "Options", "Posts", "Search", "Network", "Pictures", "Run"]


def test_an_option_is_declared_once() -> None:
    """Whatever the command, an option of a name says the same, but for what is written and by which model."""
    said: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for parameter in command.params:
            if getattr(parameter, "rich_help_panel", None) in ("Posts", "Pictures", "Run"):
                said.setdefault(parameter.opts[0], set()).add(str(parameter.help))
    assert {flag: texts for flag, texts in said.items() if len(texts) > 1} == {}
    assert {"--where", "--pipeline", "--store", "--quiet", "--json"} <= set(said)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_an_example_that_fits_the_command(path: tuple[str, ...]) -> None:
    result = ask(*path, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    command = COMMANDS[path]
    examples = re.findall(r"Example: (weibotag .*)", f"{command.help}\n{command.epilog}")
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert tuple(words[1 : 1 + len(path)]) == path
        # Raises a usage error for an option or argument that the command does not know; runs nothing.
        command.make_context(path[-1], words[1 + len(path) :])


def test_every_command_and_exit_code_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [path for path in COMMANDS if not re.search(rf"(weibotag |`){' '.join(path)}\b", text)] == []
    kinds = [errors.WeibotagError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} <= set(errors.EXIT_CODES)
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE))
    assert {int(code): meaning.replace("`", "") for code, meaning in table.items()} == errors.EXIT_CODES
    told = " ".join(ask("--help").stdout.split())
    assert [code for code in errors.EXIT_CODES if f" {code} " not in told.partition("Exit codes:")[2]] == []


@pytest.mark.parametrize(("typed", "offered"), [(["ta"], {"tag", "taxonomy"}), (["taxonomy", "ch"], {"check"})])
def test_the_shell_completes_commands(typed: list[str], offered: set[str]) -> None:
    asked = {
        "_WEIBOTAG_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(["weibotag", *typed]),
        "COMP_CWORD": str(len(typed)),
    }
    assert set(shell(env={**os.environ, **asked}).stdout.split()) == offered


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    def ask_from_bash(option: str) -> str:
        # The shell is sought among the parents; with a second command bash stays one of them.
        command = f"{shlex.quote(sys.executable)} -m weibotag {option}; exit $?"
        environment = {**os.environ, "HOME": str(tmp_path)}
        return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True).stdout

    assert "_WEIBOTAG_COMPLETE=complete_bash" in ask_from_bash("--show-completion")
    ask_from_bash("--install-completion")
    assert (tmp_path / ".bash_completions" / "weibotag.sh").is_file()


# Exit 2: the request is wrong


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["tga"], "Did you mean 'tag'?"),
        (["tag", "posts.csv", "--taxonmy", "tree.csv", "-o", "out.csv"], "--taxonomy"),
        (["tag", "posts.csv", "-t", "tree.csv"], "--out"),
        (["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--limit", "0"], "--limit"),
        (["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--route", "slow"], "rules"),
    ],
)
def test_a_usage_error_is_one_line(folder: Path, words: list[str], said: str) -> None:
    done = shell(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert re.fullmatch(r"error: .*; see weibotag.* --help\n", done.stderr)
    assert done.stdout == ""


def test_without_arguments_there_is_help() -> None:
    done = shell()
    assert done.returncode == 2
    assert "Commands" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tag none.csv -t tree.csv -o out.csv", "none.csv: no such file or folder"),
        ("tag posts.csv -t none.csv -o out.csv", "none.csv"),
        ("tag posts.csv -m none -o out.csv", "none: no model there"),
        ("tag posts.csv -m none -t tree.csv -o out.csv", "give one of --model MODEL and --taxonomy TAXONOMY"),
        ("tag posts.csv -o out.csv", "give one of --model MODEL and --taxonomy TAXONOMY"),
        ("tag posts.csv -t tree.csv -o out.csv --route fast", "--route fast needs a trained model"),
        ("tag posts.csv -t tree.csv -o out.csv --where 'splitt = 1'", "expression 'splitt = 1'"),
        (
            "tag posts.csv -t tree.csv -o out.csv --column text:content",
            "--column 'text:content': expected NAME=COLUMN, as in --column",
        ),
        ("tag posts.csv -t tree.csv -o out.csv --words ocr", "--words 'ocr': expected NAME=COLUMN, as in --words"),
        ("train posts.csv -t tree.csv -o model --task mood", "--task 'mood': expected NAME=COLUMN, as in --task"),
        ("tag posts.csv -t tree.csv -o out.csv --deadline soon", "--deadline 'soon': expected a time"),
        ("tag posts.csv -t tree.csv -o out.csv --column text=content", "content"),
        ("tag posts.csv -t tree.csv -o out.csv -p bad.toml", "unknown key 'stage'; did you mean 'stages'?"),
        ("tag posts.csv -t tree.csv -o out.csv -p none.toml", "none.toml: no such pipeline"),
        ("tag posts.csv -t tree.csv -o out.xls", "expected a name that ends in .parquet, .csv, .jsonl, .xlsx, or -"),
        ("tag posts.csv -t tree.csv -o posts.csv/out.csv", "posts.csv"),
        ("tag posts.csv -t tree.csv -o - --json", "--out - and --json both write to stdout"),
        ("ocr posts.csv -o - --json", "--out - and --json both write to stdout"),
        ("ocr posts.csv -o ocr.xls", "expected a name that ends in .parquet, .csv, .jsonl, .xlsx, or -"),
        ("faces none.csv -o faces.csv", "none.csv: no such file or folder"),
        ("wordings posts.csv -m none -o out.csv", "none: no model there"),
        ("train posts.csv -t none.csv -o model", "none.csv"),
        ("run none.toml", "none.toml: no such pipeline"),
        ("run empty.toml", "expected a table [train] or [tag], or both"),
        ("status none.run", "none.run: no run has started there"),
        ("export none.parquet -o out.csv", "none.parquet: no such file"),
        ("evaluate none.csv posts.csv -t tree.csv", "none.csv: no such file"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(folder: Path, words: str, said: str) -> None:
    (folder / "bad.toml").write_text("stage = ['ocr']")
    (folder / "empty.toml").write_text("")
    result = ask(*shlex.split(words))
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert result.stdout == ""
    assert not list(folder.glob("out.*[!n]")), "an output was written"


def test_the_folder_of_the_output_is_made_wherever_the_run_is(folder: Path) -> None:
    assert ask("tag", "posts.csv", "-t", "tree.csv", "-o", "new/out.csv", "--run", "work", "-q").exit_code == 0
    assert ask("ocr", "posts.csv", "-o", "newer/out.csv", "-q").exit_code == 0
    assert (folder / "new" / "out.csv").is_file()
    assert (folder / "newer" / "out.csv").is_file()


# Exit 0: done


def test_tags_are_written_and_told_in_one_line(folder: Path) -> None:
    done = shell("tag", "posts.csv", "-t", "tree.csv", "--words-only", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("out.csv: 3 posts, 2 with tags; ")
    with (folder / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["tags"].split(":")[0] for row in csv.DictReader(file)] == ["food", "car", ""]


def test_quiet_says_nothing_and_json_says_only_json(folder: Path) -> None:
    quiet = shell("tag", "posts.csv", "-t", "tree.csv", "--words-only", "-o", "out.csv", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    told = ask("tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["posts"] == 3


def test_stdin_to_a_file_and_a_file_to_stdout(folder: Path) -> None:
    done = shell("tag", "-", "-t", "tree.csv", "--words-only", "-o", "out.jsonl", "--quiet", input=POSTS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = shell("tag", "posts.csv", "-t", "tree.csv", "--words-only", "-o", "-")
    assert told.returncode == 0, told.stderr
    assert told.stdout == (folder / "out.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["post_id"] for line in told.stdout.splitlines()] == ["1", "2", "3"]


def test_a_pipe_that_closes_early_is_no_error(folder: Path) -> None:
    rows = "".join(f"{number},{'蛋糕' * 50}\n" for number in range(3000))
    (folder / "many.csv").write_text(f"post_id,text\n{rows}", encoding="utf-8")
    command = [sys.executable, "-m", "weibotag", "tag", "many.csv", "-t", "tree.csv", "--words-only", "-o", "-", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_export_converts_and_says_so_in_one_line(folder: Path) -> None:
    assert ask("tag", "posts.csv", "-t", "tree.csv", "-o", "out.parquet", "-q").exit_code == 0
    result = ask("export", "out.parquet", "-o", "out.csv")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "out.csv: 3 posts\n")
    assert ask("export", "out.csv", "-o", "again.parquet", "-q").stderr == ""
    tags = [pq.read_table(name)["tags"].to_pylist() for name in ("out.parquet", "again.parquet")]
    assert [[tag["id"] for tag in post] for post in tags[0]] == [[tag["id"] for tag in post] for post in tags[1]]


def test_status_tells_of_a_finished_run(folder: Path) -> None:
    assert ask("tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "-q").exit_code == 0
    assert ask("status", "out.csv.run").stdout.splitlines()[0] == "out.csv.run: finished"
    state = json.loads(ask("status", "out.csv.run", "--json").stdout)
    assert (state["state"], state["kinds"]["tags"]["done"], state["summary"]["posts"]) == ("finished", 1, 3)


def test_an_output_that_is_a_folder_is_refused_before_any_work(folder: Path) -> None:
    (folder / "out.csv").mkdir()
    refused = ask("tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "-q")
    assert refused.exit_code == 2
    assert "is a folder" in refused.stderr
    assert not (folder / "out.csv.run").exists()


def test_a_file_without_tags_is_no_output_to_judge(folder: Path) -> None:
    (folder / "bare.csv").write_text("post_id,text\n1,字\n", encoding="utf-8")
    for words in (("evaluate", "bare.csv", "posts.csv", "-t", "tree.csv"), ("export", "bare.csv", "-o", "b.jsonl")):
        refused = ask(*words)
        assert refused.exit_code == 2
        assert "no column tags" in refused.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_line(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        stopped = subprocess.run(
            [sys.executable, "-m", "weibotag", "tag", "posts.csv", "-t", "tree.csv", "-o", "-", "-q"],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=120,
        )
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("error: No space left on device")
    assert "Traceback" not in stopped.stderr


def test_a_post_id_that_a_spreadsheet_rounded_is_rejected(folder: Path) -> None:
    (folder / "round.csv").write_text("post_id,text\n5.07E+18,蛋糕\n5070000000000000001,蛋糕\n", encoding="utf-8")
    assert ask("tag", "round.csv", "-t", "tree.csv", "-o", "out.csv", "-q").exit_code == 0
    assert "5.07E+18" in (folder / "out.csv.run" / "rejects.csv").read_text(encoding="utf-8")
    assert "5070000000000000001" in (folder / "out.csv").read_text(encoding="utf-8")


def test_too_many_rejects(folder: Path) -> None:
    (folder / "posts.csv").write_text(f"{POSTS},没有号码,\n1,又一次,\n", encoding="utf-8")
    words = ("tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "-q", "--max-rejects")
    refused = shell(*words, "1")
    assert refused.returncode == 3
    told, error = refused.stderr.splitlines()
    assert told.startswith("posts.csv: 2 rows can't be used, 3 can; the first is posts.csv, line 5: no post_id")
    assert re.fullmatch(r"error: 2 rows can't be used, --max-rejects allows 1; see .*rejects\.csv", error)
    assert not (folder / "out.csv").exists()
    assert len((folder / "out.csv.run" / "rejects.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert ask(*words, "2").exit_code == 0


@pytest.mark.parametrize("words", ["tag posts.csv -t tree.csv -o out.csv", "faces posts.csv -o out.csv"])
def test_a_folder_that_another_run_holds(folder: Path, words: str) -> None:
    with Run.open(folder / "out.csv.run", {}):
        held = shell(*words.split())
    assert held.returncode == 4
    assert re.search(rf"^error: out\.csv\.run: process {os.getpid()} is at work", held.stderr)
    assert not (folder / "out.csv").exists()
    assert ask(*words.split()).exit_code == 0


# Exit 1: done in part, and 130: interrupted; the same command goes on


@pytest.mark.slow
@pytest.mark.parametrize("words", ["tag seen.csv -t tree.csv -o out.csv", "faces seen.csv -o out.csv"])
def test_pictures_that_take_too_long_are_done_by_the_same_command_later(pictures: Path, words: str) -> None:
    words += " -p looks.toml --workers 1"
    (pictures / "looks.toml").write_text("stages = ['faces']\n[workers]\npicture_seconds = 0.001\n")
    partly = shell(*words.split(), "-q")
    assert partly.returncode == 1
    assert re.search(
        r"^error: 3 pictures .*the same command tries them again.*gave no sign of life", partly.stderr, re.MULTILINE
    )
    with (pictures / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["post_id"] for row in rows} >= {"a", "b", "c", "d"}
    assert "not looked at" in (rows[0].get("error") or rows[0]["media_error"])
    without = (pictures / "out.csv").read_bytes()

    (pictures / "looks.toml").write_text("stages = ['faces']\n")
    finished = shell(*words.split(), "-q")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "failed" not in ask("status", "out.csv.run").stdout
    assert ask(*words.replace("out.csv", "clean.csv").split(), "-q", "--store", "other").exit_code == 0
    assert without != (pictures / "out.csv").read_bytes() == (pictures / "clean.csv").read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_goes_on(folder: Path) -> None:
    rows = ["post_id,text,images"]
    for number in range(16):
        draw(folder / f"{number}.png", f"{number}", (1200, 900))
        rows.append(f"{number},图,{number}.png")
    (folder / "many.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "looks.toml").write_text("[workers]\npart_files = 1\n")
    words = shlex.split("faces many.csv -o out.jsonl -p looks.toml --workers 1")
    # A shell that runs things in the background lets them ignore Ctrl-C, and children inherit that.
    process = subprocess.Popen(
        [sys.executable, "-m", "weibotag", *words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        while not list(folder.glob("out.jsonl.run/receipts/looks/*.json")):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted: the same command goes on"
    assert "Traceback" not in said
    assert not (folder / "out.jsonl").exists()

    assert json.loads(ask("status", "out.jsonl.run", "--json").stdout)["state"] == "stopped"
    finished = shell(*words, "--json")
    assert finished.returncode == 0, finished.stderr
    assert "going on where the last run stopped" in finished.stderr
    pictures = json.loads(finished.stdout)["pictures"]
    assert pictures["files"] == 16
    assert 1 <= pictures["reused"] < 16
    assert len((folder / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 16
