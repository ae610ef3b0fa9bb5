"""Posts in every format, whole or altered, through `tag` to every format: no row and no id lost, whatever the file.

    python benchmarks/fuzz_formats.py --count 300
    python benchmarks/fuzz_formats.py --kind xlsx --seed 17 --count 1

Of a whole file each id comes out once, with what passes through as it was, or in the rejects. An altered one, or one that is
made to hurt, ends in a documented exit code. Commands run in forks of one process that has imported everything.
"""

import csv
import json
import random
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_posts import WORDS, count_rows, import_all, write_tree
from fuzzing import Outcome, Trial, faults, main, mutated, run_warm

from weibotag.posts.result_files import read_table

SECONDS, MEGABYTES = 60.0, 2_000.0
ENDINGS = ("csv", "jsonl", "parquet", "xlsx")
Row = dict[str, Any]


def draw_rows(chance: random.Random) -> list[Row]:
    """Return posts whose ids may be absent or there twice; `more` passes through."""
    ids = [str(5271268008318503 + number) for number in range(chance.choice((1, 3, 40)))]
    ids += chance.choices(["", *ids], k=chance.choice((0, 0, 2)))
    words = [word for word in WORDS if "\x1b" not in word]
    texts = ["".join(chance.choices(words, k=chance.randint(0, 4))) + "火" for _ in ids]
    return [
        {"post_id": one, "text": text, "more": chance.choice(words) or "x"} for one, text in zip(ids, texts, strict=True)
    ]


def write_csv(rows: list[Row], path: Path) -> None:
    """Write rows as CSV or TSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def write_lines(rows: list[Row], path: Path) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(rows: list[Row], path: Path) -> None:
    """Write rows as a JSON list, alone or in an object: their number says how."""
    form = len(rows) % 3
    value = rows if form else {"user": {"id": 1, "tags": ["x"]}, "data": {"list": rows}}
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1 if form == 1 else None), encoding="utf-8")


def write_parquet(rows: list[Row], path: Path) -> None:
    """Write rows as Parquet."""
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_book(rows: list[Row], path: Path) -> None:
    """Write rows as the second sheet of a workbook."""
    book = openpyxl.Workbook(write_only=True)
    book.create_sheet("about").append(["made", 1])
    sheet = book.create_sheet("posts")
    for row in (list(rows[0]), *(row.values() for row in rows)):
        cells = [openpyxl.cell.WriteOnlyCell(sheet, cell) for cell in row]
        for cell in cells:
            cell.data_type = "s"
        sheet.append(cells)
    book.save(path)


def write_database(rows: list[Row], path: Path) -> None:
    """Write rows as a table of a database."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE other(a)")
        database.execute("INSERT INTO other VALUES (1)")
        database.execute("CREATE TABLE posts(post_id, text, more)")
        database.executemany("INSERT INTO posts VALUES (?, ?, ?)", [tuple(row.values()) for row in rows])
    database.close()


WRITERS: dict[str, Callable[[list[Row], Path], None]] = {
    "csv": write_csv,
    "tsv": write_csv,
    "jsonl": write_lines,
    "json": write_json,
    "parquet": write_parquet,
    "xlsx": write_book,
    "db": write_database,
}


def alter(path: Path, chance: random.Random) -> None:
    """Change bytes of a file; of a workbook often those of a part in it."""
    if path.suffix == ".xlsx" and chance.random() < 0.7:
        with zipfile.ZipFile(path) as packed:
            parts = {name: packed.read(name) for name in packed.namelist()}
        name = chance.choice(sorted(parts))
        parts[name] = mutated(parts[name], chance)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in parts.items():
                packed.writestr(name, data)
        return
    path.write_bytes(mutated(path.read_bytes(), chance))


def hurt_book(path: Path, chance: random.Random) -> None:
    """Write a workbook that readers stumble over."""
    many = chance.choice((10, 1_000, 200_000))
    cells = [
        "<row r='1048577'><c r='A1048577'><v>1</v></c></row>",
        "<row r='999999999'><c r='A999999999'><v>1</v></c></row>",
        "<row r='2'><c r='XFD2'><v>1</v></c></row><row r='1048576'><c r='XFD1048576'><v>1</v></c></row>",
        "<row r='2'><c r='ZZZZZZ2'><v>1</v></c></row>",
        "<row r='2'><c r='A2' t='s'><v>999999</v></c></row>",
        "<row r='2'><c r='A2'><v>1e999</v></c><c r='B2' t='d'><v>9999-99-99</v></c></row>",
        f"<row r='2'><c r='A2' t='inlineStr'><is><t>{'a' * many * 50}</t></is></c></row>",
        "<row r='2'>" + "<c><v>1</v></c>" * many + "</row>",
        "<row>" * min(many, 5_000),
        "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]><row><c><v>&b;</v></c></row>",
    ]
    head = "".join(
        f"<c r='{at}1' t='inlineStr'><is><t>{name}</t></is></c>" for at, name in (("A", "post_id"), ("B", "text"))
    )
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    sheet = f"<worksheet xmlns='{space}'><sheetData><row r='1'>{head}</row>{chance.choice(cells)}</sheetData></worksheet>"
    write_book([{"post_id": "1", "text": "a", "more": "b"}], path)
    with zipfile.ZipFile(path) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    parts["xl/worksheets/sheet2.xml"] = sheet.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)


def hurt_database(path: Path, chance: random.Random) -> None:
    """Write a database that readers stumble over."""
    many = chance.choice((10, 300, 3_000))
    statements = [
        [f"CREATE TABLE t{number}(post_id, text)" for number in range(many)],
        [f"CREATE TABLE t({', '.join(f'c{number}' for number in range(1_900))}, post_id, text)"],
        ["CREATE TABLE t(post_id, text)", "INSERT INTO t VALUES (1, zeroblob(40000000))"],
        ["CREATE TABLE t(post_id, text)", "INSERT INTO t VALUES (x'ff', x'ff00'), (9e99, 1e400), (NULL, 'a'), (-1, '')"],
        ["CREATE TABLE t(post_id, text)", "INSERT INTO t VALUES (1, CAST(x'fffe41' AS TEXT)), (2, CAST(x'00' AS TEXT))"],
        ["CREATE TABLE b(post_id, text)", "CREATE VIEW v AS SELECT a.post_id, b.text FROM b a, b, b c, b d, b e, b f"],
        ['CREATE TABLE "a"";::b"(post_id, text)', """INSERT INTO "a"";::b" VALUES ('1', 'a')"""],
        ["CREATE TABLE t(post_id GENERATED ALWAYS AS (text || randomblob(9)) VIRTUAL, text)", "INSERT INTO t VALUES ('a')"],
    ]
    with sqlite3.connect(path) as database:
        for statement in chance.choice(statements):
            database.execute(statement)
    database.close()


def hurt_json(path: Path, chance: random.Random) -> None:
    """Write JSON that readers stumble over."""
    many = chance.choice((10, 1_000, 200_000))
    post = '{"post_id": "1", "text": "a"}'
    texts = [
        "[" * many,
        "[" + "[" * many + "]" * many + "]",
        '{"a": ' * many + "[" + post + "]" + "}" * many,
        "[" + ",".join([post] * min(many, 3_000)) + ",",
        '[{"post_id": "1", "text": "' + "a" * many * 100 + '"}]',
        "["
        + ",".join(f'{{"post_id": "{number}", "k{number}": 1, "text": "a"}}' for number in range(min(many, 4_000)))
        + "]",
        "{" + ",".join(f'"k{number}": [{post}]' for number in range(min(many, 20_000))) + "}",
        "[" + "9" * many + "," + post + "]",
        post + "\n\n" + post + "]",
        " " * many * 50 + "[" + post + "\0]",
        '{"posts": ' + "[1," * many + post,
        '[{"post_id": 1e400, "text": "\\ud800"}, NaN, {"a": Infinity}]',
    ]
    path.write_text(chance.choice(texts), encoding="utf-8")


HURT: dict[str, Callable[[Path, random.Random], None]] = {"json": hurt_json, "xlsx": hurt_book, "db": hurt_database}


def tag(folder: Path, posts: str, out: str) -> Outcome:
    """Tag what is in a folder."""
    (folder / "t.csv").write_bytes(write_tree())
    words = ("tag", posts, "-t", "t.csv", "-o", out, "-q", "--words-only", "--store", "s")
    return run_warm(words, folder, SECONDS + 5)


def compare(rows: list[Row], out: Path, done: Outcome) -> list[str]:
    """Return what is wrong with the output of rows that were written whole."""
    good = list({row["post_id"]: row for row in reversed(rows) if row["post_id"]}.values())
    if done.code != (0 if good else 3):
        return [f"exit code {done.code}: {done.stderr.strip()[-200:]}"]
    if not good:
        return []
    table = pa.concat_tables(read_table(out))
    wrong = []
    if Counter(table["post_id"].to_pylist()) != Counter(row["post_id"] for row in good):
        wrong.append("other ids come out")
    elif dict(zip(table["post_id"].to_pylist(), table["more"].to_pylist(), strict=True)) != {
        row["post_id"]: row["more"] for row in good
    }:
        wrong.append("what passes through comes out otherwise")
    rejected = count_rows(out.with_name(f"{out.name}.run") / "rejects.csv")
    if len(table) + rejected != len(rows):
        wrong.append(f"{len(rows)} rows in, {len(table)} out, {rejected} rejected")
    return wrong


def of_format(ending: str) -> Trial:
    """Return the trial of a format."""

    def trial(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
        path, out = folder / f"own.{ending}", folder / f"out.{chance.choice(ENDINGS)}"
        rows, how = draw_rows(chance), chance.random()
        if how < 0.3 and ending in HURT:
            HURT[ending](path, chance)
        else:
            WRITERS[ending](rows, path)
        if 0.3 <= how < 0.6:
            alter(path, chance)
        done = tag(folder, path.name, out.name)
        found = list(faults(done, SECONDS, MEGABYTES))
        if how >= 0.6 or (how < 0.3 and ending not in HURT):
            found += compare(rows, out, done)
        return done, found

    return trial


def of_folder(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
    """Tag a folder that holds the same posts in several formats, some of them not all, beside files that are no posts."""
    rows = list({row["post_id"]: row for row in draw_rows(chance) if row["post_id"]}.values())
    (folder / "in" / "deep").mkdir(parents=True)
    whole, *others = chance.sample(sorted(WRITERS), chance.randint(1, 4))
    for ending in (whole, *others):
        some = rows if ending == whole else chance.choice((rows, rows[: 1 + len(rows) // 2]))
        WRITERS[ending](some, folder / "in" / chance.choice(("", "deep")) / f"p.{ending}")
    (folder / "in" / "package.json").write_text('{"name": "x", "files": []}')
    out = folder / f"out.{chance.choice(ENDINGS)}"
    done = tag(folder, "in", out.name)
    return done, [*faults(done, SECONDS, MEGABYTES), *compare(rows, out, done)]


if __name__ == "__main__":
    import_all()
    main({**{ending: of_format(ending) for ending in WRITERS}, "folder": of_folder}, __doc__)
