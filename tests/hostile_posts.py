"""Makes CSV files that hold every kind of trouble a row can be in, and says what a reader must make of each."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HEADER = b"post_id,text,images,split\n"


@dataclass
class Hostile:
    """A hostile file: its data rows, texts of the good ones by id, (line, post_id, part of reason) of the others."""

    path: Path
    rows: int = 0
    good: dict[str, str] = field(default_factory=dict)
    bad: list[tuple[int, str | None, str]] = field(default_factory=list)


# Kind of row: its bytes (%s: its id), its text when it is good, part of the reason when not, if its id can be read.
Kind = tuple[bytes, str | None, str, bool]
KINDS: dict[str, Kind] = {
    "plain": (b"%s,\xe4\xbb\x8a\xe5\xa4\xa9,,train\n", "今天", "", True),
    "crlf": (b"%s,\xe6\x98\x8e\xe5\xa4\xa9,,train\r\n", "明天", "", True),
    "lone CR": (b"%s,mac,,train\r", "mac", "", True),
    "quoted": (b'%s,"one, ""two""\n\nthree",,train\n', 'one, "two"\n\nthree', "", True),
    "emoji": ("%s,看👩‍👩‍👧‍👦,,train\n".encode(), "看👩‍👩‍👧‍👦", "", True),
    "sloppy quote": (b'%s,"said" he,,train\n', "said he", "", True),
    "formula": (b"%s,=1+1,,train\n", "=1+1", "", True),
    "picture alone": (b"%s,,a.jpg,train\n", "", "", True),
    "short": (b"%s,few\n", "few", "", True),
    "trailing": (b"%s,more,,train,, \n", "more", "", True),
    "id alone": (b"%s\n", None, "none of text, images, videos", True),
    "long": (b"%s,many,,train,more\n", None, "5 fields; expected 4", True),
    "blank id": (b" ,id of %.0sspaces,,train\n", None, "no post_id", False),
    "wordless": (b"%s,  ,,train\n", None, "none of text, images, videos", True),
    "broken bytes": (b"%s,cut \xe4\xbb,,train\n", None, "bytes that are not UTF-8", True),
    "NUL": (b"%s,nul \0,,train\n", None, "NUL byte", True),
    "unclosed": (b'%s,"never closed,,train\n', None, "not closed", True),
    "giant": (b"%s," + b"x" * 16_000_001 + b",,train\n", None, "more than 16,000,000", True),
}
REPEATED: dict[str, int] = {"giant": 1, "unclosed": 2}


def write_hostile(path: Path, seed: int = 0, times: int = 5) -> Hostile:
    """Write every kind of row, most of them `times` times, in an order that `seed` gives; the last quote is open."""
    made = Hostile(path)
    shuffled = random.Random(seed)
    kinds = [name for name in [*KINDS, "duplicate", "blank line"] for _ in range(REPEATED.get(name, times))]
    shuffled.shuffle(kinds)
    data = bytearray(HEADER)
    for number, name in enumerate([*kinds, "unclosed"]):
        line = _lines(data) + 1
        if name == "blank line":
            data += b"\n"
            continue
        made.rows += 1
        post_id = str(4_500_000_000_000_000_000 + number)
        if name == "duplicate":
            known = next(iter(made.good), None)
            if known is None:
                made.rows -= 1
                continue
            data += b"%s,again,,train\n" % known.encode()
            made.bad.append((line, known, "duplicate post_id"))
            continue
        row, text, reason, readable = KINDS[name]
        data += row % post_id.encode()
        if text is None:
            made.bad.append((line, post_id if readable else None, reason))
        else:
            made.good[post_id] = text
    path.write_bytes(data)
    return made


def _lines(data: bytes | bytearray) -> int:
    """Return how many physical lines are complete: ended by LF, CRLF or a lone CR."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


MAKERS: dict[str, Callable[[str], bytes]] = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with BOM": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "gb18030": lambda text: text.encode("gb18030"),
}
