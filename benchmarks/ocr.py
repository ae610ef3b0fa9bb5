"""Text in pictures, measured side by side: stock RapidOCR, PaddleOCR, faster-paddle, and the ocr stage as it works in a run.

    python benchmarks/ocr.py                                        # grounds are plain colours and gradients
    python benchmarks/ocr.py PHOTOS --json table.json               # over photos of a folder too
    python benchmarks/ocr.py PHOTOS --truth gt.tsv --stages rapidocr rapidocr:openvino

Renders stickers, memes, posters, ads, screenshots, long pictures and pictures without text, so the text is known. Peers
are called picture by picture on all cores, as a user would; the stage works in one process per core on one thread each.
All are opened before, wall time includes decoding, and they take turns on the same pictures, so that a busy machine hits
all alike. Characters are counted as a bag per picture, after NFKC and without spaces. What is printed in the photos
themselves counts against everybody's precision. Prints Markdown.
"""

import argparse
import csv
import json
import os
import platform
import resource
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from printed_pictures import KINDS, Press, Sample

from weibotag.core.errors import WeibotagError

ROOT = Path(__file__).resolve().parents[1]
RUST = ("faster-paddle tiny", "faster-paddle small")
PEERS = ("RapidOCR", "PaddleOCR", *RUST)
ROUNDS = 4
BATCH = 16
MIN_SCORE = 0.5


def read_truth(path: Path) -> list[Sample]:
    """Return the pictures of a TSV of path, coverage (full or first-lines) and text with '\\n' between lines."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Sample(path.parent / row["path"], row["text"].replace("\\n", "\n"), row["coverage"] != "full") for row in rows]


def open_stock(threads: int) -> Callable[[list[str]], list[str]]:
    """Return a reader that calls RapidOCR as its README does: a path, the defaults, all cores."""
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(params={"Global.log_level": "critical"})
    return lambda paths: ["\n".join(engine(path).txts or ()) for path in paths]


def open_paddle(threads: int) -> Callable[[list[str]], list[str]]:
    """Return a reader that calls PaddleOCR picture by picture, on all cores."""
    from weibotag.vision.backends.ocr_paddleocr import PaddleOcr

    backend = PaddleOcr()
    backend.open(threads=threads)

    def read(path: str) -> str:
        lines = [line for line in backend.look([decode(path)])[0] if line.score >= MIN_SCORE]
        return "\n".join(line.text for line in lines)

    return lambda paths: [read(path) for path in paths]


def open_rust(size: str, threads: int) -> Callable[[list[str]], list[str]]:
    """Return a reader that hands files to faster-paddle in lists, as its README does, on all cores."""
    from faster_paddle import OcrEngine

    engine = OcrEngine(model_size=size, threads=threads)

    def read(paths: list[str]) -> list[str]:
        answers = engine.ocr_batch([Path(path).read_bytes() for path in paths])
        sure = (
            [line["text"] for line in answer["bounds"].values() if line["confidence"] >= MIN_SCORE] for answer in answers
        )
        return ["\n".join(lines) for lines in sure]

    return read


def open_stage(backend: str) -> Callable[[list[str]], list[str]]:
    """Return a reader that works through pictures as a worker of a run does, by BACKEND or BACKEND:ENGINE."""
    from weibotag.vision.media.pictures import Frame, frames_table
    from weibotag.vision.ocr import Ocr

    settings = dict(zip(("backend", "engine"), backend.split(":"), strict=False))
    stage = Ocr(Ocr.Config.model_validate({**settings, "min_score": MIN_SCORE}))
    stage.open()

    def read(paths: list[str]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(paths), BATCH):
            frames = [Frame(path, decode(path)) for path in paths[start : start + BATCH]]
            rows = stage.process(frames_table(frames))["ocr_lines"].to_pylist()
            texts += ["\n".join(line["text"] for line in row or ()) for row in rows]
        return texts

    return read


def decode(path: str) -> Any:
    """Return the pixels of a picture file, RGB."""
    from weibotag.vision.media.pictures import MediaLimits, read_media

    return read_media(Path(path).read_bytes(), path, MediaLimits(max_frames=1))[1][0].rgb


def serve(reader: str, threads: int, connection: Connection) -> None:
    """Open a reader, then answer lists of paths with lists of texts and the peak memory, MB, until None comes."""
    openers = {
        "RapidOCR": open_stock,
        "PaddleOCR": open_paddle,
        **{name: partial(open_rust, name.split()[1]) for name in RUST},
    }
    try:
        read = openers[reader](threads) if reader in openers else open_stage(reader)
    except (ImportError, WeibotagError) as error:
        connection.send(str(error))
        return
    connection.send(None)
    while (paths := connection.recv()) is not None:
        connection.send((read(paths), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Crew:
    """Processes with one reader each that share the pictures."""

    def __init__(self, reader: str, processes: int, threads: int) -> None:
        self.reader, self.peak = reader, 0.0
        self.ends: list[Connection] = []
        context = get_context("spawn")
        for _ in range(processes):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(reader, threads, theirs), daemon=True).start()
            self.ends.append(ours)
        self.missing = next(filter(None, [end.recv() for end in self.ends]), None)

    def read(self, paths: list[str]) -> tuple[list[str], float]:
        """Return the texts of the pictures and the seconds it took."""
        texts, start = [""] * len(paths), time.perf_counter()
        for place, end in enumerate(self.ends):
            end.send(paths[place :: len(self.ends)])
        for place, end in enumerate(self.ends):
            texts[place :: len(self.ends)], peak = end.recv()
            self.peak = max(self.peak, peak)
        return texts, time.perf_counter() - start

    def close(self) -> None:
        """Let the processes end."""
        for end in self.ends:
            end.send(None)


@dataclass
class Tally:
    """What one reader did with one set of pictures."""

    pictures: int = 0
    seconds: float = 0.0
    found: int = 0
    written: int = 0
    read: int = 0
    right: int = 0
    bags: list[Counter[str]] = field(default_factory=list)

    def add(self, samples: list[Sample], texts: list[str], seconds: float) -> None:
        """Count the answers for some pictures."""
        self.pictures += len(samples)
        self.seconds += seconds
        for sample, text in zip(samples, texts, strict=True):
            known, bag = letters(sample.text), letters(text)
            common = (known & bag).total()
            self.bags.append(bag)
            self.found += common
            self.written += known.total()
            if not sample.open:
                self.right += common
                self.read += bag.total()

    def row(self, stock: "Tally") -> dict[str, float | None]:
        """Return pictures a second, how often stock's, and recall and precision in per cent."""
        return {
            "pictures": self.pictures,
            "pictures_per_second": round(self.pictures / self.seconds, 2),
            "times_stock": round(stock.seconds / self.seconds, 2),
            "recall": round(100 * self.found / self.written, 2) if self.written else None,
            "precision": round(100 * self.right / self.read, 2) if self.written and self.read else None,
            "characters_read": sum(bag.total() for bag in self.bags),
        }


def letters(text: str) -> Counter[str]:
    """Return the characters of a text as a bag."""
    return Counter("".join(unicodedata.normalize("NFKC", text).split()))


def agree(one: Tally, other: Tally) -> float | None:
    """Return the share of characters that two readers have in common over the same pictures, per cent."""
    pairs = list(zip(one.bags, other.bags, strict=True))
    total = sum(a.total() + b.total() for a, b in pairs)
    return round(200 * sum((a & b).total() for a, b in pairs) / total, 2) if total else None


def take_turns(crews: list[Crew], samples: list[Sample]) -> dict[str, Tally]:
    """Return each crew's tally of the samples, worked through in rounds."""
    tallies = {crew.reader: Tally() for crew in crews}
    step = max(1, -(-len(samples) // ROUNDS))
    for start in range(0, len(samples), step):
        part = samples[start : start + step]
        for crew in crews:
            tallies[crew.reader].add(part, *crew.read([str(sample.path) for sample in part]))
        crews = crews[1:] + crews[:1]
    return tallies


def sets(press: Press, count: int, truth: Path | None, folder: Path) -> Iterator[tuple[str, list[Sample]]]:
    """Yield the name and the pictures of each set; rendered ones are written to `folder`."""
    for name, kind in KINDS.items():
        size = max(1, round(count * kind.share))
        yield name, [press.print_sample(kind, folder / f"{name}{at}") for at in range(size)]
    if truth:
        yield truth.name, read_truth(truth)


def main() -> None:
    """Render, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="folder of photos to print on")
    parser.add_argument("--display", type=Path, help="folder of display faces (.ttf, .otf) for stylised letters")
    parser.add_argument("--truth", type=Path, help="TSV of further pictures: path, coverage, text")
    parser.add_argument("--pictures", type=int, default=300, help="how many to render (default: 300)")
    parser.add_argument("--stages", nargs="+", default=["rapidocr", "fasterpaddle"], help="BACKEND or BACKEND:ENGINE")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="readers beside the stage (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    press = Press(options.photos, options.seed, options.display)
    crews = []
    for reader, processes in [*((peer, 1) for peer in options.peers), *((stage, cores) for stage in options.stages)]:
        crew = Crew(reader, processes, cores // processes)
        if crew.missing:
            print(f"{reader} is left out: {crew.missing}")
        else:
            crews.append(crew)
    about = {
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {cores} cores",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("rapidocr", "onnxruntime")},
        "fonts": len(press.faces),
    }
    print(f"{about['date']}, {about['machine']}, {about['packages']}\n")
    print("| set | reader | pictures | pictures/s | x first | recall % | precision % | characters |\n" + "|---" * 8 + "|")
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for name, samples in sets(press, options.pictures, options.truth, Path(folder)):
            tallies = take_turns(crews, samples)
            for reader, tally in tallies.items():
                row = tally.row(next(iter(tallies.values())))
                table.append({"set": name, "reader": reader, **row})
                print(
                    f"| {name} | {reader} | " + " | ".join("" if cell is None else str(cell) for cell in row.values()) + " |"
                )
            if "PaddleOCR" in tallies:
                for stage in options.stages:
                    table.append({"set": name, "reader": stage, "agreement": agree(tallies["PaddleOCR"], tallies[stage])})
                    print(f"\nagreement of PaddleOCR and {stage}: {table[-1]['agreement']} %\n")
    print("\npeak memory of a process, MB: " + ", ".join(f"{crew.reader} {crew.peak:.0f}" for crew in crews))
    for crew in crews:
        crew.close()
    if options.json:
        options.json.write_text(json.dumps({**about, "table": table}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
