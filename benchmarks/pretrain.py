"""What pretraining on posts without tags brings, by how many posts have tags.

    python benchmarks/pretrain.py POSTS.csv TAXONOMY.csv --store STORE

POSTS has a column split (train, valid, test). Of the posts to train on 5, 20 and 100 % keep their tags, by a hash of the id;
the network learns these from nothing, and from a body that was pretrained on all posts to train on. Prints mean and spread
(highest less lowest) of micro-F1 on the test rows over the seeds, as Markdown. Visual codes are left out, because they were
learnt from all tags. With the default --minutes some 25 minutes on 2 cores.
"""

import argparse
import platform
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.core.schema import WORDING
from weibotag.extraction.context import open_context
from weibotag.extraction.pipeline_files import read_pipeline
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import Run
from weibotag.scoring.decision import Decision, micro_f1
from weibotag.taxonomy.tree import Taxonomy, load
from weibotag.training.dataset import Dataset, NetworkOptions, blake, gold_matrix
from weibotag.training.network.settings import Settings, TrainingRun
from weibotag.workflows.compare import prepare

SHARES = (0.05, 0.2, 1.0)
# Of the minutes for a pretraining, what a training may take with so many tags.
TIME = {0.05: 0.2, 0.2: 0.3, 1.0: 0.7}


@dataclass(frozen=True)
class Data:
    """Posts to train on, to choose on and to test on, without visual codes."""

    trained: Sequence[pa.Table]
    held: Sequence[pa.Table]
    tested: Sequence[pa.Table]
    taxonomy: Taxonomy
    network: str
    minutes: float


def without_codes(table: pa.Table) -> pa.Table:
    """Return posts whose wordings have no visual codes."""
    if "wordings" not in table.column_names:
        return table
    kept = [[one for one in row or [] if one["kind"] != "code"] for row in table["wordings"].to_pylist()]
    return table.set_column(table.column_names.index("wordings"), "wordings", pa.array(kept, pa.list_(WORDING)))


def draw(table: pa.Table, share: float) -> pa.Table:
    """Return a share of the posts, by a hash of the id."""
    return table.filter(pa.array([int(blake(post_id), 16) < share * 2**64 for post_id in table["post_id"].to_pylist()]))


def measure(data: Data, seed: int) -> dict[tuple[float, bool], float]:
    """Return micro-F1 on the test rows by share of tags and whether the network was pretrained."""
    from weibotag.training.network.fit import train_fused
    from weibotag.training.network.pretraining import SETTINGS, pretrain

    found = {}
    gold = gold_matrix(data.tested, data.taxonomy)
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as name:
        folder = Path(name)
        limited = replace(SETTINGS, minutes=data.minutes)
        pretrain(data.trained, data.held, data.network, limited, TrainingRun(folder / "body", seed, "cpu", quiet=True))
        for share in SHARES:
            some = [draw(table, share) for table in data.trained]
            sides = [Dataset(list(tables), gold_matrix(tables, data.taxonomy)) for tables in (some, data.held)]
            for start in (None, folder / "body"):
                scorer, _ = train_fused(
                    sides[0],
                    sides[1],
                    data.taxonomy,
                    NetworkOptions(data.network, start=start),
                    Settings(minutes=TIME[share] * data.minutes, epochs=max(30, min(90, round(6 / share)))),
                    TrainingRun(folder / f"{share}-{start is None}", seed, "cpu", quiet=True),
                )
                held, tested = (
                    csr_matrix(vstack([scorer.raw_scores(table) for table in tables])) for tables in (data.held, data.tested)
                )
                chosen = Decision.fit(held, sides[1].gold, data.taxonomy).decide(tested)
                found[share, start is not None] = micro_f1(chosen, gold)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", help="CSV with columns split (train, valid, test), text, images, tags, channel")
    parser.add_argument("taxonomy", type=Path)
    parser.add_argument("--network", default="vl-bert")
    parser.add_argument("--minutes", type=float, default=3.5, help="for each pretraining at most; trainings less")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="of posts")
    parser.add_argument("--store", type=Path, help="folder that keeps what pictures say")
    options = parser.parse_args()
    taxonomy = load(options.taxonomy)
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as name:
        context = open_context(read_pipeline(None), options.store or Path(name) / "store")
        source = PostsSource(options.posts, limit=options.limit)
        with Run.open(Path(name) / "run", {"benchmark": "pretrain"}) as run:
            rows = prepare(run, source, context, taxonomy, "split = 'valid'", "split = 'test'")
        sides = [[without_codes(table) for table in tables] for tables in (rows[0].tables, rows[1].tables, rows[2])]
    data = Data(sides[0], sides[1], sides[2], taxonomy, options.network, options.minutes)
    with ProcessPoolExecutor(min(2, options.seeds), get_context("spawn")) as pool:
        found = list(pool.map(measure, [data] * options.seeds, range(options.seeds)))
    posts = sum(map(len, data.trained))
    print(f"{date.today()}, {platform.machine()}, {options.network}, {posts:,} posts to train on, {options.seeds} seeds\n")
    print("| posts with tags | from nothing | pretrained | gain |\n| --- | --- | --- | --- |")
    for share in SHARES:
        scores = {which: np.array([one[share, which] for one in found]) for which in (False, True)}
        cells = [f"{own.mean():.3f} (spread {np.ptp(own):.3f})" for own in scores.values()]
        count = sum(len(draw(table, share)) for table in data.trained)
        print(f"| {share:.0%}: {count:,} | {' | '.join(cells)} | {(scores[True] - scores[False]).mean():+.3f} |")


if __name__ == "__main__":
    main()
