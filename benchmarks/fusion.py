"""Networks that fuse text and pictures against the fast tagger, on one split.

    python benchmarks/fusion.py POSTS.csv TAXONOMY.csv --networks concat,hma --minutes 5 --store STORE

The fast tagger is trained by the product. Pictures are looked at once (a store that is given keeps what they say). All that
is chosen is chosen on split valid; the figures are of split test, tagged on onnxruntime, one thread. `no channel` are the
same posts without author and channel. Prints Markdown.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.gather import gather_part, read_found, say_codes
from weibotag.looks import Looking, link, look, make_looking, read_links
from weibotag.metrics import contains, count, expected_calibration_error, leaf_precision_at_1, macro_f1, rank
from weibotag.pipeline import ingest
from weibotag.posts import PostsSource
from weibotag.runs import Run
from weibotag.settings import Pipeline
from weibotag.taggers import thresholds
from weibotag.taggers.fusion.features import collect_vectors
from weibotag.taggers.fusion.training import Settings, train_fused
from weibotag.taggers.model import load_model
from weibotag.taggers.tagger import mark_right
from weibotag.taxonomy.tree import Taxonomy, load
from weibotag.training import Rows, gold_matrix, learn_codes, mark_valid, read_rows, train_model

TRAIN, TEST = "split IN ('train', 'valid')", "split = 'test'"
VALID = "split = 'valid'"
ROUNDS = 3


def add_vectors(run: Run, parts: list[str], looking: Looking, tables: list[pa.Table]) -> list[pa.Table]:
    """Return tables of posts with their column `vectors`."""
    links = pa.concat_tables([read_links(run, part) for part in parts])
    added = []
    for table in tables:
        own = links.filter(pc.is_in(links["post_id"], table["post_id"].combine_chunks()))
        media = looking.store.read("media", looking.media, own["file_id"].drop_null())
        found = read_found("embed", media.filter(pc.is_null(media["media_error"]))["media_id"], looking)
        added.append(table.append_column("vectors", collect_vectors(table["post_id"].to_pylist(), own, media, found)))
    return added


def prepare(posts: Path, taxonomy: Taxonomy, folder: Path, store: Path) -> tuple[Rows, Rows, list[pa.Table]]:
    """Return the rows to train on, those of valid, and the tables of test, all with wordings and vectors."""
    looking = make_looking(Pipeline(), store)

    def start(run: Run, where: str) -> list[str]:
        parts = ingest(run, PostsSource(str(posts), where=where), None, True)
        link(run, parts, looking.limits, True)
        look(run, parts, looking)
        return parts

    with Run.open(folder / "learn.run", {"where": TRAIN}) as run:
        parts = start(run, TRAIN)
        is_valid = mark_valid(run, parts, VALID, taxonomy)
        codebook, learnt = learn_codes(run, parts, looking, taxonomy, is_valid)
        sides = read_rows(run, parts, looking, taxonomy, is_valid, codebook, learnt)
        trained, held = (Rows(add_vectors(run, parts, looking, side.tables), side.gold) for side in sides)
    with Run.open(folder / "test.run", {"where": TEST}) as run:
        parts = start(run, TEST)
        code = None if codebook is None else lambda table: say_codes(codebook.code_table(table))
        tables = [table for part in parts for table in gather_part(run, part, looking, code)]
        tested = add_vectors(run, parts, looking, tables)
    return trained, held, tested


def without_channel(table: pa.Table) -> pa.Table:
    """Return posts that say neither author nor channel."""
    for name in ("author", "channel"):
        table = table.set_column(table.column_names.index(name), name, pa.array([""] * len(table)))
    return table


def measure(scores: csr_matrix, cuts: np.ndarray, gold: csr_matrix, taxonomy: Taxonomy) -> dict[str, float]:
    """Return figures of calibrated scores under thresholds."""
    chosen = thresholds.decide(scores, cuts, taxonomy)
    right = mark_right(chosen, gold)
    pairs = chosen.tocoo()
    ranked = rank(pairs.row.astype(np.int64), pairs.col.astype(np.int64), pairs.data)
    given, told = gold.astype(np.int32), chosen.astype(bool).astype(np.int32)
    return {
        "micro_f1": thresholds.micro_f1(chosen, gold),
        "macro_f1": macro_f1(count(given, told, axis=0)),
        "p_at_1": leaf_precision_at_1(
            ranked, contains(given, ranked), taxonomy.closure_matrix(), count(given, told, axis=1)
        ),
        "ece": expected_calibration_error(chosen.data, right) or 0.0,
    }


def report(
    name: str, score: Callable[[pa.Table], csr_matrix], cuts: np.ndarray, tests: pa.Table, taxonomy: Taxonomy
) -> list[str]:
    """Return a row of the table: micro-F1 of all, by source and by what posts have; other figures; microseconds a post."""
    gold = gold_matrix([tests], taxonomy)
    scores = score(tests)
    seen = np.diff(tests["vectors"].combine_chunks().offsets.to_numpy()) > 0
    sources = np.array(tests["source"].to_pylist() if "source" in tests.column_names else [""] * len(tests))
    masks = [np.ones(len(tests), bool), seen, ~seen, *(sources == source for source in sorted(set(sources)))]
    figures = [measure(scores[mask], cuts, gold[mask], taxonomy) for mask in masks]
    blank = measure(score(without_channel(tests)), cuts, gold, taxonomy)
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        score(tests)
        spent.append((time.process_time() - start) / len(tests) * 1e6)
    return [
        name,
        *(f"{one['micro_f1']:.3f}" for one in figures),
        f"{blank['micro_f1']:.3f}",
        *(f"{figures[0][key]:.3f}" for key in ("macro_f1", "p_at_1", "ece")),
        f"{min(spent):.0f}",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path, help="CSV with columns split (train, valid, test), text, images, tags, channel")
    parser.add_argument("taxonomy", type=Path)
    parser.add_argument("--networks", default="concat,hma,single-stream", help="names, joined by commas")
    parser.add_argument("--minutes", type=float, help="of training for each network (default: as long as it gets better)")
    parser.add_argument("--tune-seconds", type=int, default=60, help="for the fast tagger's hyper-parameters")
    parser.add_argument("--store", type=Path, help="folder that keeps what pictures say (default: a temporary one)")
    options = parser.parse_args()
    taxonomy = load(options.taxonomy)
    print(f"{date.today()}, {platform.machine()}, one thread, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as name:
        folder = Path(name)
        store = options.store or folder / "store"
        source = PostsSource(str(options.posts), where="split = 'train'")
        about = train_model(
            source, taxonomy, folder / "fast", Pipeline(), valid=VALID, tune_seconds=options.tune_seconds, store=store
        )
        model = load_model(folder / "fast")
        trained, held, tables = prepare(options.posts, taxonomy, folder, store)
        tests = pa.concat_tables(tables)
        seconds = sum(trial["seconds"] for trial in about["trials"])
        parameters = (folder / "fast" / "fasttext.bin").stat().st_size // 4
        sources = sorted(set(tests["source"].to_pylist())) if "source" in tests.column_names else [""]
        head = ["tagger", "all", "pictures", "text only", *sources, "no channel", "macro-F1", "P@1", "ECE", "us/post"]
        rows = [
            [*report("fast", model.tagger.scores, model.thresholds, tests, taxonomy), f"{seconds:.0f} s", f"{parameters:,}"]
        ]
        for network in options.networks.split(","):
            sides = [(rows_of.tables, rows_of.gold) for rows_of in (trained, held)]
            tagger, told = train_fused(
                sides[0], sides[1], taxonomy, network, Settings(minutes=options.minutes), folder / network, device="cpu"
            )
            row = report(network, tagger.scores, tagger.thresholds, tests, taxonomy)
            rows.append([*row, f"{told['seconds']:.0f} s", f"{told['parameters']:,}"])
    print_table([*head, "training", "parameters"], rows)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
