"""What the documents say of commands, options, files and backends is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import COMMANDS

from weibotag.vision.registry import REGISTRY

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
TALKS = [*PAGES, *sorted((ROOT / "pipelines").glob("*.toml"))]
TOP = {path[0] for path in COMMANDS}
OPTIONS = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
# Options of other programs that the documents name.
FOREIGN = {
    "--help",
    "--version",
    "--editable",
    "--strict",
    "--cov",
    "--force-reinstall",
    "--no-deps",
    "--only",
    "--first-seed",
    "--seeds",
    "--posts",
    "--tags",
    "--rows",
}
# A part of a command is no mistake; a value in capitals stands for one.
INCOMPLETE = ("MissingParameter", "BadOptionUsage")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def find_code(path: Path) -> Iterator[str]:
    """Give each line of the blocks of code and each piece in backticks; in TOML what its comments quote."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        whole = re.sub(r"\\\n#\s*", "", text)
        yield from (match[1] for match in re.finditer(r"^#\s+(weibotag .*?)(?:\s{2,}.*)?$", whole, re.MULTILINE))
        return
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (piece.replace("\n", " ") for piece in re.findall(r"`([^`]+)`", plain))


def find_commands(path: Path) -> Iterator[list[str]]:
    """Give the words of each call of weibotag, without that name; pieces such as `tag -m MODEL` are calls, too."""
    for code in find_code(path):
        called = re.match(r"(?:\S*/)?weibotag (.+)", code)
        if not called and not (re.match(r"[a-z]+ \S", code) and code.split()[0] in TOP):
            continue
        words = shlex.split(called[1] if called else code, comments=True)
        if re.match(r"[a-z-]", words[0]):
            yield words


def check_command(words: list[str]) -> None:
    """Raise what is wrong with a call of weibotag; nothing is run."""
    words = [word for word in words if word not in FOREIGN]
    if not words:
        return
    fitting = [path for path in COMMANDS if path == tuple(words[: len(path)])]
    if not fitting:
        groups = {path[:length] for path in COMMANDS for length in range(1, len(path))}
        assert tuple(words) in groups, f"no command: weibotag {shlex.join(words)}"
        return
    path = max(fitting, key=len)
    try:
        COMMANDS[path].make_context(path[-1], words[len(path) :])
    except Exception as error:
        stands_for = any(re.fullmatch(r"[A-Z]+(,[A-Z]+)*", word) for word in words)
        if type(error).__name__ not in (*INCOMPLETE, *(["BadParameter"] if stands_for else [])):
            raise AssertionError(f"weibotag {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize("path", TALKS, ids=name)
def test_every_call_of_weibotag_fits_a_command(path: Path) -> None:
    for words in find_commands(path):
        check_command(words)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_option_is_one(path: Path) -> None:
    quoted = {code.split()[0].partition("=")[0] for code in find_code(path) if code.startswith("--")}
    assert quoted - OPTIONS - FOREIGN == set()


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_file_of_the_project_that_is_named_is_there(path: Path) -> None:
    ours = [
        file.relative_to(ROOT).as_posix()
        for top in ("weibotag", "tests", "benchmarks", "examples")
        for file in (ROOT / top).rglob("*.py")
    ]
    for code in find_code(path):
        for named in re.findall(r"(?<![\w/.])(?:weibotag|tests|benchmarks|pipelines)(?:/\w+)+(?:\.\w+)?", code):
            assert (ROOT / named).exists(), f"{named} in {code!r}"
        for named in re.findall(r"(?<![\w/.-])weibotag(?:\.\w+)+", code):
            parts = named.split(".")
            place = ROOT.joinpath(*parts)
            assert place.is_dir() or place.with_suffix(".py").is_file() or place.parent.is_dir(), f"{named} in {code!r}"
        if re.fullmatch(r"[\w/]+\.py", code):
            assert any(file == code or file.endswith(f"/{code}") for file in ours), f"{code} is no file of the project"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_link_within_the_project_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        assert re.match(r"https?:", target) or (path.parent / target).exists(), target


def test_every_backend_is_in_the_table() -> None:
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    for stage, backend in REGISTRY:
        assert stage == "stage" or re.search(rf"^\| {stage} \| `{backend}`", text, re.MULTILINE), (stage, backend)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_chinese_readme_has_the_same_parts_and_commands() -> None:
    english, chinese = (Path(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    levels, commands, codes = (
        re.compile(r"^#+(?= )", re.M),
        re.compile(r"^\| (`weibotag [^|]*) \|", re.M),
        re.compile(r"^\| (\d+) \|", re.M),
    )
    for part in (levels, commands, codes):
        assert part.findall(english) == part.findall(chinese)
