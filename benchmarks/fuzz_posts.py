"""Hostile posts, taxonomies and files of tags, through the commands that read them: a documented exit code, and no row lost.

    python benchmarks/fuzz_posts.py --count 1000
    python benchmarks/fuzz_posts.py --kind jsonl --seed 17 --count 1

Half of the inputs are good files with bytes changed, half are made to hurt: quotes that do not close, a new key in every
line, keys given twice, NUL, giant cells, endless lines, packed Parquet, deep nesting, aliases of aliases. Commands run in
forks of one process that has imported everything.
"""

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing import Outcome, Trial, faults, main, mutated, run_warm

SECONDS, MEGABYTES = 60.0, 2_000.0
WORDS = [
    "口红",
    "唇釉",
    "手机",
    "火锅",
    "iphone15",
    "二战上岸",
    "😀",
    "=1+1",
    "a,b",
    'say "x"',
    "\u202e",
    "\x1b[31m",
    "",
    "[doge]",
]
TREE = [("a", "", "美妆", "口红;唇釉"), ("b", "a", "手机", "iphone"), ("c", "", "火锅", "")]
TAG = ("tag", "own", "-t", "t.csv", "-o", "out.csv", "-q")
Draw = Callable[[random.Random], bytes]


def good_rows(chance: random.Random) -> list[dict[str, str]]:
    """Return some posts."""
    texts = (" ".join(chance.choices(WORDS, k=chance.randint(0, 6))) for _ in range(chance.randint(1, 20)))
    return [{"post_id": str(number), "text": text, "channel": chance.choice(WORDS)} for number, text in enumerate(texts)]


def write_csv(rows: list[dict[str, str]], mark: str = ",") -> bytes:
    """Return rows as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=mark)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def hurt_csv(chance: random.Random) -> bytes:
    """Return CSV of a shape that readers stumble over."""
    head, many = b"post_id,text\n", chance.choice((10, 1_000, 20_000))
    shapes: list[Callable[[], bytes]] = [
        lambda: head + b'id","\n' * many,
        lambda: head + b'1,"' + b"x\n" * many,
        lambda: head + b"".join(b'%d,"a""\n' % number for number in range(many)),
        lambda: head + b"1," + b"a" * (many * 100) + b"\n2,b\n",
        lambda: b"post_id,text," + b",".join(b"c%d" % number for number in range(many)) + b"\n1,a\n",
        lambda: head + b"\0" * many + b"\n1,a\0b\n",
        lambda: b"post_id,post_id,text\n1,2,a\n" * chance.randint(1, 3),
        lambda: head.replace(b"\n", b"\r") + b"1,a\r2,b\r" * many,
        lambda: head.decode().encode("utf-16") + "1,口红\n".encode("utf-16-le") * many,
        lambda: head + "1,口红\n".encode("gb18030") * many + b"\xff\xfe\xfd\n",
        lambda: head + b"," * many + b"\n",
        lambda: chance.randbytes(many),
    ]
    return chance.choice(shapes)()


def hurt_jsonl(chance: random.Random) -> bytes:
    """Return JSON lines of a shape that readers stumble over."""
    many = chance.choice((10, 1_000, 4_000))
    shapes: list[Callable[[], bytes]] = [
        lambda: b"".join(b'{"post_id":"%d","text":"a","k%d":1}\n' % (number, number) for number in range(many)),
        lambda: b'{"post_id":"1","post_id":"2","text":"a"}\n' * many,
        lambda: b"[" * many * 10 + b"\n",
        lambda: b'{"post_id":' + b"9" * many * 5 + b',"text":"a"}\n',
        lambda: b'{"post_id":"1","text":"' + b"a" * many * 500 + b'"}\n',
        lambda: b'{"post_id":"1","text":"\\ud800"}\n{"post_id":"2","text":NaN}\n{"post_id":3e999,"text":"a"}\n',
        lambda: b'{"post_id":"1","text":"a","d":' + b'{"d":' * many + b"1" + b"}" * many + b"}\n",
        lambda: b'[{"post_id":"1","text":"a"}]\n' * many,
        lambda: b" " * many * 1000,
        lambda: b"{}\n" * many,
    ]
    return chance.choice(shapes)()


def hurt_parquet(chance: random.Random) -> bytes:
    """Return Parquet of types and sizes that readers stumble over."""
    many = chance.choice((10, 1_000, 100_000))
    ids = pa.array([str(number) for number in range(many)])
    long = pa.array(["a" * 1_000]).cast(pa.dictionary(pa.int32(), pa.string()))
    columns: list[Callable[[], pa.Array]] = [
        lambda: pa.DictionaryArray.from_arrays(pa.array([0] * many, pa.int32()), long.dictionary),
        lambda: pa.array([["口红", None]] * many),
        lambda: pa.array([{"a": {"b": [1]}}] * many),
        lambda: pa.array([b"\xff\xfe"] * many),
        lambda: pa.nulls(many),
        lambda: pa.array([2**63 - 1] * many),
        lambda: pa.array(["\ud7ff\x00口红"] * many, pa.large_string()),
        lambda: pa.array([253402300800000000] * many, pa.timestamp("us")),
    ]
    names = chance.choice((("post_id", "text", "more"), ("post_id", "text", "images"), ("text", "post_id", "tags")))
    table = pa.table([ids, chance.choice(columns)(), chance.choice(columns)()], names=list(names))
    out = io.BytesIO()
    pq.write_table(table, out, compression=chance.choice(("zstd", "snappy", "none")))
    return out.getvalue()


def hurt_tree(chance: random.Random) -> bytes:
    """Return YAML or JSON of a shape that readers stumble over."""
    deep, levels = chance.choice((50, 1_000, 50_000)), "abcdefghijk"[: chance.randint(2, 11)]
    shapes: list[Callable[[], str]] = [
        lambda: "[" * deep,
        lambda: '{"name": "a", "children": [' * deep,
        lambda: "- &a [x]\n" + "".join(f"- &{b} [{f'*{a},' * 9}]\n" for a, b in pairwise(levels)),
        lambda: "- &x {name: a, children: [*x]}\n",
        lambda: "- !!python/object/apply:os.system ['true']\n",
        lambda: "- name: a\n  name: b\n",
        lambda: f"- name: {'a' * deep}\n  aliases: [{'b' * deep}]\n",
        lambda: "- {name: a, aliases: " + "[" * deep + "]" * deep + "}\n",
        lambda: json.dumps([{"name": str(number), "children": [{"name": "x"}]} for number in range(deep // 10)]),
        lambda: "- name: " + "9" * deep + "\n",
        lambda: "? " * deep,
    ]
    return chance.choice(shapes)().encode()


def hurt_tags(chance: random.Random) -> bytes:
    """Return a CSV taxonomy of odd words and parents."""
    many = chance.choice((3, 300, 3_000))
    letters = chance.choice(("a" * 64_000, "ab" * 9_000, "口" * 3_000, " ", "\0", "=1", "😀" * 200))
    aliases = chance.choice(
        (letters, ";".join("a" * number for number in range(1, 400)), "a;" * many, '["a", 1]', "[" * many)
    )
    parents = chance.choice(
        (lambda n: "", lambda n: str(n), lambda n: str(n - 1 if n else ""), lambda n: str((n + 1) % many))
    )
    rows = [(str(number), parents(number), chance.choice((letters[:50], f"n{number}")), "", "") for number in range(many)]
    rows[0] = ("0", "", "美妆", aliases, letters)
    out = io.StringIO()
    csv.writer(out).writerows([("id", "parent_id", "name", "aliases", "keywords"), *rows])
    return out.getvalue().encode()


def choose_rules(chance: random.Random) -> list[str]:
    """Return nothing, or more often what leaves the meaning of texts out: to load what reads that takes longest by far."""
    return [] if chance.random() < 0.1 else ["--words-only"]


def of_posts(ending: str, good: Draw, hurt: Draw, count: Callable[[bytes], int | None] = lambda data: None) -> Trial:
    """Return the trial of files of posts; `count` tells how many rows one has, where that is certain."""

    def trial(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
        data = mutated(good(chance), chance) if chance.random() < 0.5 else hurt(chance)
        (folder / f"own{ending}").write_bytes(data)
        (folder / "t.csv").write_bytes(write_tree())
        words = [word.replace("own", f"own{ending}") for word in TAG]
        done = run_warm(words + choose_rules(chance), folder, SECONDS + 5)
        found = list(faults(done, SECONDS, MEGABYTES))
        rows, known = count_rows(folder / "out.csv") + count_rows(folder / "out.csv.run" / "rejects.csv"), count(data)
        if done.code in (0, 1, 3) and known is not None and rows != known:
            found.append(f"{known} rows in, {rows} out")
        return done, found

    return trial


def of_tree(ending: str, good: Draw, hurt: Draw) -> Trial:
    """Return the trial of taxonomies: checked, or used."""

    def trial(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
        data = mutated(good(chance), chance) if chance.random() < 0.5 else hurt(chance)
        (folder / f"own{ending}").write_bytes(data)
        (folder / "p.csv").write_bytes(
            write_csv([{"post_id": "1", "text": "a" * 5_000}, {"post_id": "2", "text": "口红 aab"}])
        )
        use = ("tag", "p.csv", "-t", f"own{ending}", "-o", "out.csv", "-q", *choose_rules(chance))
        done = run_warm(chance.choice((use, ("taxonomy", "check", f"own{ending}"))), folder, SECONDS + 5)
        return done, list(faults(done, SECONDS, MEGABYTES))

    return trial


def of_answers(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
    """Alter a file of tags and evaluate it, or export from it."""
    (folder / "t.csv").write_bytes(write_tree())
    (folder / "p.csv").write_bytes(b"post_id,text,tags\n1,a,a\n2,b,b\n")
    head = "post_id,tags,keywords,route,evidence,error\n"
    good = f"{head}1,a:0.9,口红:0.6:text,rules,a:text:口红,\n2,b:0.5;c:0.1,,rules,,\n".encode()
    (folder / "own.csv").write_bytes(mutated(good, chance) if chance.random() < 0.7 else hurt_csv(chance))
    commands = (
        ("evaluate", "own.csv", "p.csv", "-t", "t.csv"),
        ("keywords", "export", "own.csv", "-o", "x.libsvm", "--dictionary", "d.parquet", "-q"),
    )
    done = run_warm(chance.choice(commands), folder, SECONDS + 5)
    return done, list(faults(done, SECONDS, MEGABYTES))


def write_tree() -> bytes:
    """Return a small taxonomy."""
    rows = [dict(zip(("id", "parent_id", "name", "aliases", "keywords"), (*row, ""), strict=True)) for row in TREE]
    return write_csv(rows)


def count_rows(path: Path) -> int:
    """Return how many rows a CSV of ours has, none where there is none."""
    if not path.exists():
        return 0
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        return sum(1 for _ in csv.reader(line.replace("\0", "") for line in file)) - 1


def good_jsonl(chance: random.Random) -> bytes:
    """Return posts as JSON lines."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in good_rows(chance))


def good_parquet(chance: random.Random) -> bytes:
    """Return posts as Parquet."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(good_rows(chance)), out)
    return out.getvalue()


def good_yaml(chance: random.Random) -> bytes:
    """Return a taxonomy as YAML that is JSON too."""
    return json.dumps(
        [{"name": word, "children": [{"name": f"{word}1"}]} for word in WORDS[:5]], ensure_ascii=False
    ).encode()


def count_lines(data: bytes) -> int | None:
    """Return how many lines of JSON hold something, where no byte could part them otherwise."""
    return sum(1 for line in data.split(b"\n") if line.strip()) if b"\r" not in data and b"\0" not in data else None


def import_all() -> None:
    """Import what commands import late, once for all forks."""
    import duckdb
    import pandas
    import sklearn
    import yaml

    import weibotag.cli.main
    import weibotag.workflows.tag

    assert all((duckdb, pandas, sklearn, yaml, weibotag))


KINDS: dict[str, Trial] = {
    "csv": of_posts(".csv", lambda chance: write_csv(good_rows(chance)), hurt_csv),
    "tsv": of_posts(".tsv", lambda c: write_csv(good_rows(c), "\t"), lambda c: hurt_csv(c).replace(b",", b"\t")),
    "jsonl": of_posts(".jsonl", good_jsonl, hurt_jsonl, count_lines),
    "jsonl.gz": of_posts(".jsonl.gz", lambda c: gzip.compress(good_jsonl(c), 1), lambda c: gzip.compress(hurt_jsonl(c), 1)),
    "parquet": of_posts(".parquet", good_parquet, hurt_parquet),
    "taxonomy csv": of_tree(".csv", lambda _: write_tree(), hurt_tags),
    "taxonomy yaml": of_tree(".yaml", good_yaml, hurt_tree),
    "taxonomy json": of_tree(".json", good_yaml, hurt_tree),
    "tags": of_answers,
}


if __name__ == "__main__":
    import_all()
    main(KINDS, __doc__)
