"""What vectors bring where few posts have labels: 5, 20 and 100 of each tag, taggers with and without vectors beside words.

    python benchmarks/few_labels.py POSTS.csv --taxonomy TAXONOMY.csv --store STORE --groups source
    python benchmarks/few_labels.py TWEETS.csv --words ocr=ocr_text --words object=image_words

POSTS has columns split (train, valid, test) and tags. Without a taxonomy the tags of at least 20 training posts are a flat
one, and posts that have none of them are left out. With each seed other posts of train are drawn, until each finest tag has
so many, and trained on as `weibotag train` does by itself: a tenth of them is held out to choose on. Prints Markdown:
micro-F1 on test, mean and standard deviation over the seeds, of all posts and of each value of a column.
"""

import argparse
import os
import platform
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from main_job import read_rows, write_rows
from tweets import make_taxonomy, print_row, read_table, spell

from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.settings import Pipeline
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import Run
from weibotag.taxonomy.tree import Taxonomy, load
from weibotag.training import vector_choice
from weibotag.training.dataset import LearningOptions, Lesson
from weibotag.training.learners import Trainer
from weibotag.workflows.compare import prepare, score, train_contender

SHOTS = (5, 20, 100)
Row = dict[str, str]


def list_tags(row: Row, taxonomy: Taxonomy) -> list[str]:
    """Return the finest of a row's tags that the taxonomy has."""
    own = [tag for tag in row["tags"].split(";") if tag in taxonomy.index]
    parents = {taxonomy.tags[taxonomy.index[tag]].parent_id for tag in own}
    return [tag for tag in own if tag not in parents]


def draw(rows: Sequence[Row], taxonomy: Taxonomy, shots: int, seed: int) -> list[Row]:
    """Return rows in a random order until each tag has so many; one whose tags have enough already is left out."""
    counts: Counter[str] = Counter()
    chosen = []
    for row in random.Random(seed).sample(list(rows), len(rows)):
        own = list_tags(row, taxonomy)
        if any(counts[tag] < shots for tag in own):
            counts.update(own)
            chosen.append(row)
    return chosen


def measure(
    rows: list[Row],
    taxonomy: Taxonomy,
    context: ExtractionContext,
    names: Sequence[str],
    test: str,
    groups: Mapping[str, pa.Array],
    seconds: float,
) -> dict[tuple[str, str], float]:
    """Return micro-F1 by tagger and group; `groups` are ids of posts by name."""
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as folder:
        path = Path(folder) / "posts.csv"
        write_rows(rows, path, ())
        found: dict[tuple[str, str], float] = {}
        with Run.open(Path(folder) / "run", {}) as run:
            trained, held, tests = prepare(run, PostsSource(str(path)), context, taxonomy, None, test)
            most = vector_choice.MOST_WITH_VECTORS
            for kind, limit in (("words", 0), ("words and vectors", most)):
                vector_choice.MOST_WITH_VECTORS = limit
                options = LearningOptions(seconds, quiet=True, folder=run.folder)
                trainer = Trainer(Lesson(trained, held, taxonomy, options))
                # fastText reads no vectors.
                for name in [name for name in names if not (limit and name == "fast")]:
                    contender = train_contender(name, trainer, context)
                    for group, ids in groups.items():
                        some = [table.filter(pc.is_in(table["post_id"], ids)) for table in tests]
                        figures = score(name, contender, [table for table in some if len(table)], taxonomy, 0.0)
                        found[f"{name}, {kind}", group] = figures["micro_f1"] or 0.0
            vector_choice.MOST_WITH_VECTORS = most
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--taxonomy", type=Path)
    parser.add_argument("--taggers", default="fast,linear,xmc")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", default=",".join(map(str, SHOTS)))
    parser.add_argument("--split", default="test", help="that is tested on")
    parser.add_argument("--groups", help="a column, each of whose values is measured by itself, too")
    parser.add_argument("--words", action="append", default=[], help="as of `weibotag train`: KIND=COLUMN; repeatable")
    parser.add_argument("--store", type=Path, help="folder that keeps what pictures say")
    parser.add_argument("--tune-seconds", type=float, default=10, help="for fastText's hyper-parameters, each time")
    options = parser.parse_args()
    rows = read_rows(options.posts)
    taxonomy = load(options.taxonomy) if options.taxonomy else make_taxonomy(read_table(options.posts))
    rows = [row for row in rows if options.taxonomy or list_tags(row, taxonomy)]
    learnt = [row for row in rows if row["split"] == "train" and list_tags(row, taxonomy)]
    tested = [row for row in rows if row["split"] == options.split]
    members: dict[str, list[str]] = defaultdict(list)
    for row in tested:
        members["all"].append(row["post_id"])
        if options.groups:
            members[row[options.groups]].append(row["post_id"])
    groups = {name: pa.array(ids, pa.string()) for name, ids in members.items()}
    # The posts are written anew elsewhere, with whole paths of their pictures.
    pipeline = Pipeline(stages=("embed",), media_root=Path("/"))
    pipeline = pipeline.with_words(dict(words.split("=") for words in options.words))
    context = open_context(pipeline, options.store, quiet=True)
    cores, python = len(os.sched_getaffinity(0)), platform.python_version()
    sizes = ", ".join(f"{len(ids):,} {name}" for name, ids in groups.items())
    print(f"{date.today()}, {platform.machine()}, {cores} cores, Python {python}; {options.split}: {sizes}\n", flush=True)
    print_row(["posts of a tag", "labelled posts", "tagger", *groups])
    print_row(["---"] * (3 + len(groups)))
    for shots in map(int, options.shots.split(",")):
        figures: dict[tuple[str, str], list[float]] = defaultdict(list)
        sides = [draw(learnt, taxonomy, shots, seed) for seed in range(options.seeds)]
        for side in sides:
            args = [*side, *tested], taxonomy, context, options.taggers.split(",")
            for place, value in measure(*args, f"split = '{options.split}'", groups, options.tune_seconds).items():
                figures[place].append(value)
        for tagger in dict.fromkeys(name for name, _ in figures):
            cells = [spell(figures[tagger, group]) for group in groups]
            print_row([str(shots), f"{sum(map(len, sides)) / len(sides):,.0f}", tagger, *cells])
        print(end="", flush=True)


if __name__ == "__main__":
    main()
