"""Hostile requests: conditions, pipeline files and command lines; a documented exit code and a line, whatever they say.

    python benchmarks/fuzz_requests.py --count 1000
    python benchmarks/fuzz_requests.py --kind where --seed 17 --count 1

Conditions are good ones with characters changed, and expressions nested at random; pipelines have values of other types,
keys that nobody knows, depth, endless numbers; command lines have odd names and values, and closed or full streams. Commands
run in forks of one process that has imported everything.
"""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzzing import Outcome, Trial, faults, main, mutated, run_warm

# A condition may take 60 s, and a gigabyte beside what commands take.
SECONDS, MEGABYTES = 90.0, 2_000.0
ROWS = [f"{n},口红 {'手机' * n},{n},a;b,train,2026-02-03T00:00:00" for n in range(20)]
POSTS = "\n".join(("post_id,text,n,tags,split,created_at", *ROWS, f"x,{'ab' * 50_000},7,b,test,", ""))
TREE = "id,parent_id,name,aliases,keywords\na,,美妆,,口红\nb,,手机,,手机\n"
GOOD = (
    "split = 'train' AND n::INT % 2 = 0 OR lower(text) LIKE '%a%' AND text NOT IN ('x', 'y')",
    "CASE WHEN n::INT BETWEEN 1 AND 2 THEN true ELSE false END",
    "list_contains(tags, 'a') AND tags[1] = 'a' AND len(tags) > 1 AND tags[1:2] = ['a', 'b']",
    "text ~ '(a|b){3}.*' AND regexp_matches(text, 'c') IS NOT TRUE AND hash(text) % 10 < 11",
    "try_cast(text AS DECIMAL(10, 2)) IS NULL AND coalesce(nullif(text, ''), 'x') COLLATE NOCASE = 'AB'",
    "json_extract_string('{\"k\": 1}', '$.k') = '1' AND posts.n IS DISTINCT FROM '3' -- and a remark",
    "created_at::TIMESTAMP >= DATE '2026-01-01' AND current_date + INTERVAL 1 YEAR > DATE '2000-01-01'",
)
LEAVES = (
    "n",
    "text",
    "tags",
    "n::INT",
    "'a''b\"\\'",
    "1",
    "-1e308",
    "NULL",
    "9" * 400,
    "TIMESTAMP 'now'",
    "[1, 2]",
    "*",
    "?",
)
# What takes texts and gives a text, so that it binds however it is nested.
TEXTS, GROWING = (
    ("n", "text", "split", "'a''b\"\\'"),
    (
        "[{}]::VARCHAR",
        "[{}]::JSON::VARCHAR",
        "concat({}, {}, {}, {})",
        "({} || {})",
        "[{}, {}]::VARCHAR",
        "replace({}, 'a', 'b')",
        "lower({})",
        "array_slice({}, 1, 9)",
        "list_sort(split({}, ''))::VARCHAR",
        "({} LIKE {})::VARCHAR",
        "regexp_extract({}, '(a{{9}}b?){{9}}|.*')",
    ),
)
AROUND = (
    "[{}]::VARCHAR",
    "[{}, {}]",
    "concat({}, {}, {}, {})",
    "({} || {})",
    "(SELECT {})",
    "({}) UNION ALL SELECT ({})",
    "replace({}, 'a', 'b')",
    "repeat({}, 1000000000)",
    "regexp_matches({}, '(a{{9}}b?){{9}}')",
    "{} ~ {}",
    "list_sort(split({}, ''))",
    "{{'k': {}}}::JSON::VARCHAR",
    "CASE WHEN {} THEN {} END",
    "({} + {})",
    "({} LIKE {})",
    "strftime({}, '%A%A%A%A')",
    "lower({})",
    "({})::INT",
    "NOT {}",
    "({} = {})",
    "max({}) OVER ()",
)
TABLES = {
    "": {"stages": "[]", "reuse": '"exact"', "media_root": '"."', "store": '"s"', "words": '{ ocr = "text" }'},
    "ocr": {"backend": '"rapidocr"', "min_score": "0.5", "max_side": "800"},
    "media": {"max_bytes": "1_000", "max_pixels": "50", "max_frames": "4"},
    "workers": {"count": "1", "recycle": "5", "part_files": "3", "picture_seconds": "60", "memory_mb": "4000"},
    "tag": {
        "posts": '"p.csv"',
        "taxonomy": '"t.csv"',
        "out": '"out.csv"',
        "quiet": "true",
        "limit": "5",
        "where": '"n::INT > 1"',
    },
}
VALUES = (
    "[" * 5_000 + "]" * 5_000,
    "{a=" * 500 + "1" + "}" * 500,
    "9" * 5_000,
    "0x" + "f" * 5_000,
    "1e999",
    "nan",
    "-1",
    "0",
    "1e-320",
    '"\\ud800"',
    '"\\u0000"',
    '"' + "x" * 100_000 + '"',
    '""',
    '"a:b://c"',
    "[]",
    "[1, 'a', {}]",
    "{}",
    "1979-05-27T07:32:00Z",
    "true",
    "'''\n'''",
    '"\x1b[31m\u202e"',
    "",
)
COMMANDS = (
    ("tag", "p.csv", "-t", "t.csv", "-o", "out.csv", "--limit", "5", "--where", "n::INT > 1", "-p", "p.toml"),
    ("export", "out.jsonl", "-o", "x.csv"),
    ("evaluate", "out.jsonl", "p.csv", "-t", "t.csv", "-o", "r.json"),
    ("taxonomy", "check", "t.csv"),
    ("keywords", "export", "out.jsonl", "-o", "x.libsvm", "--dictionary", "d.parquet"),
    ("faces", "gallery", "show", "g.gallery"),
    ("codes", "apply", "v.parquet", "-m", "c.safetensors", "-o", "c.parquet"),
    ("plan", "p.csv", "-m", "m", "-o", "plan.json", "--store", "s"),
    ("tag", "p.csv", "-m", "m", "-o", "out.csv", "--plan", "plan.json", "--store", "s"),
    ("run", "p.toml"),
    ("ocr", "p.csv", "-o", "o.jsonl", "--store", "s", "--limit", "2"),
)
# No name that leads out of the folder: what is written takes the place of what is there.
WORDS = (
    "",
    "a\0b",
    "\udcff\udc80.csv",
    "\ud800",
    "out:1.csv",
    "s3://bucket/x.csv",
    "http://localhost:1/x.parquet",
    "file:///none/x.csv",
    "n" * 300,
    "d/" * 3_000 + "x.csv",
    "x" * 100_000,
    ".",
    "sub",
    "-",
    "--",
    "-1",
    "nan",
    "1e999",
    "9" * 5_000,
    "\x1b]0;x\x07.csv",
    "\u202evsc.csv",
    "a\nb.csv",
    "[a-",
    "*",
    "/proc/self/mem",
    "/proc/none",
    "link",
    "名字.csv",
    "--no-such",
    "@x",
    "p.csv",
    "x.xlsx",
)


def nest(chance: random.Random, depth: int, leaves: Sequence[str], around: Sequence[str]) -> str:
    """Return an expression at random."""
    if depth == 0:
        return chance.choice(leaves)
    # One part is used for every place, so that the text grows as much as it can.
    outer, inner = chance.choice(around), nest(chance, depth - 1, leaves, around)
    grown = outer.replace("{}", "\0").replace("{{", "{").replace("}}", "}")
    return grown.replace("\0", inner if len(inner) < 20_000 else chance.choice(leaves))


def condition(chance: random.Random) -> str:
    """Return a condition: one in two a good one with characters changed."""
    if chance.random() < 0.5:
        return mutated(chance.choice(GOOD).encode(), chance, 1).decode(
            "utf-8", chance.choice(("ignore", "ignore", "surrogateescape"))
        )
    around = chance.choice(("{} = 'a'", "{}", "{} IS NULL", "NOT ({})", "{} AND (" + "(" * chance.choice((0, 500, 40_000))))
    parts = (TEXTS, GROWING) if chance.random() < 0.6 else (LEAVES, AROUND)
    return around.replace("{}", nest(chance, chance.choice((1, 2, 3, 5, 9, 60)), *parts))


def pipeline(chance: random.Random) -> bytes:
    """Return a pipeline file with some values of another kind, lines doubled or unknown; one in four with bytes changed."""
    lines = []
    for table, values in TABLES.items():
        lines += [f"[{table}]"] * bool(table)
        for key, value in values.items():
            name = chance.choice(("x" * 3_000, "", "a.b.c", '"\\u0000"', f"{key}x")) if chance.random() < 0.02 else key
            written = f"{name} = {chance.choice(VALUES) if chance.random() < 0.03 else value}"
            lines += [written] * chance.choice((1,) * 300 + (0, 0, 0, 2))
    lines += ["a." * 2_000 + "b = 1"] * (chance.random() < 0.02)
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return mutated(data, chance) if chance.random() < 0.25 else data


def shut(number: int, full: bool) -> Callable[[], None]:
    """Return what closes a stream, or has it written to a full disk."""

    def patch() -> None:
        os.close(number)
        if full and number:
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    return patch


def asks(make: Callable[[random.Random, Path], tuple[list[str], int | None]]) -> Trial:
    """Return the trial of a command line that is made; the number is that of a stream that is closed or full."""

    def trial(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
        (folder / "p.csv").write_text(POSTS, encoding="utf-8")
        (folder / "t.csv").write_text(TREE, encoding="utf-8")
        (folder / "out.jsonl").write_text('{"post_id": "1", "tags": [{"id": "a", "score": 0.5}]}\n')
        (folder / "sub").mkdir()
        (folder / "link").symlink_to("link")
        arguments, number = make(chance, folder)
        done = run_warm(arguments, folder, SECONDS + 5, None if number is None else shut(number, chance.random() < 0.5))
        found = [one for one in faults(done, SECONDS, MEGABYTES) if number != 2 or "without a word" not in one]
        if found:
            print(repr(arguments)[:1_000], number, done.stderr[-600:])
        return done, found

    return trial


def make_where(chance: random.Random, _: Path) -> tuple[list[str], int | None]:
    """Return `tag --where` with a condition."""
    return ["tag", "p.csv", "-t", "t.csv", "-o", "out.csv", "-q", "--words-only", "--where", condition(chance)], None


def make_pipeline(chance: random.Random, folder: Path) -> tuple[list[str], int | None]:
    """Return a command that reads a pipeline file."""
    (folder / "p.toml").write_bytes(pipeline(chance))
    tag = ["tag", "p.csv", "-t", "t.csv", "-o", "out.csv", "-q", "-p", "p.toml"]
    return chance.choice(
        (["run", "p.toml"], ["run", "p.toml"], tag, ["ocr", "p.csv", "-o", "o.jsonl", "-p", "p.toml"])
    ), None


def make_words(chance: random.Random, folder: Path) -> tuple[list[str], int | None]:
    """Return a command line with odd words in it."""
    (folder / "p.toml").write_text("stages = []\n")
    first, *others = chance.choice(COMMANDS)
    rate = chance.choice((0.0, 0.15, 0.3))
    words = [chance.choice(WORDS) if chance.random() < rate else word for word in others]
    if first == "tag" and chance.random() < 0.3 and "-o" in words[:-1]:
        words[words.index("-o") + 1] = "-"
    return [first, *words], chance.choice((None, None, 0, 1, 2))


def import_all() -> None:
    """Import what commands import late, once for all forks."""
    import duckdb
    import pandas
    import pyarrow.parquet

    import weibotag.cli.main
    import weibotag.workflows.plan
    import weibotag.workflows.tag

    assert all((duckdb, pandas, pyarrow.parquet, weibotag))


KINDS = {"where": asks(make_where), "pipeline": asks(make_pipeline), "words": asks(make_words)}

if __name__ == "__main__":
    import_all()
    main(KINDS, __doc__)
