"""What the cascade keeps of the gain at ten budgets: real runs, from an empty store and from one that knows most pictures.

    python benchmarks/cascade.py POSTS.csv TAXONOMY.csv [-p PIPELINE.toml] [--model MODEL] [--store STORE]

Trains a model with a cascade on split train (valid chooses), or takes MODEL. Then split test is tagged by text alone, with
everything looked at, and by the cascade within a tenth, two tenths ... of the time that everything takes. Prices and rates
are those of one `weibotag plan` on the posts, whose looks no run is given. In brackets: the share of the gain in micro-F1
over text alone. The last part times tagging with all pictures known: CPU time of one process, the taggers in turns. Prints
Markdown.
"""

import argparse
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.core.files import write_json
from weibotag.extraction.context import open_context
from weibotag.extraction.ingest import ingest, link
from weibotag.extraction.pipeline_files import read_pipeline
from weibotag.extraction.post_table import open_vector_words, read_part
from weibotag.extraction.requests import PlanRequest, TagRequest, TrainRequest
from weibotag.extraction.settings import Pipeline
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import Run
from weibotag.scoring.decision import micro_f1
from weibotag.taggers.answering import BudgetPlan, open_answerer, open_codebook, open_taxonomy
from weibotag.taxonomy.tree import Taxonomy, load
from weibotag.training.dataset import gold_matrix
from weibotag.training.train import train_model
from weibotag.workflows.choose_tagger import PLAN_FORMAT, choose_tagger
from weibotag.workflows.plan import plan_tagging
from weibotag.workflows.tag import tag

TEST = "split = 'test'"
SHORT_TEXT = 10
TENTHS = range(1, 11)
ROUNDS = 5


class Bench:
    """Posts to tag, their gold tags, and groups of them."""

    def __init__(self, posts: Path, taxonomy: Taxonomy, model: Path, pipeline: Pipeline, folder: Path) -> None:
        self.source = PostsSource(str(posts), where=TEST)
        self.taxonomy, self.model, self.pipeline, self.folder = taxonomy, model, pipeline, folder
        with Rejects(folder / "rejects.csv") as rejects:
            table = pa.concat_tables(list(read_posts(self.source, rejects, 20_000)))
        self.ids = table["post_id"].to_pylist()
        self.gold = gold_matrix([table], taxonomy)
        pictured = np.array([bool(files) for files in table["images"].to_pylist()])
        long = np.array([len(text) > SHORT_TEXT for text in table["text"].to_pylist()])
        self.groups = {"all": np.ones(len(table), bool), "pictures": pictured, "text and pictures": pictured & long}
        self.runs = 0

    def run(self, route: str, store: Path, plan: BudgetPlan | None = None) -> tuple[dict[str, float], dict[str, Any]]:
        """Tag the posts; return micro-F1 by group, and the summary with `took` seconds."""
        self.runs += 1
        tagger, _ = choose_tagger(self.model, None, route, self.pipeline)
        out, spending = self.folder / f"{self.runs}.parquet", None
        if plan is not None:
            spending = self.folder / f"{self.runs}.plan.json"
            write_json({"format": PLAN_FORMAT, "model": tagger.digest, **asdict(plan)}, spending)
        request = TagRequest(
            posts=self.source.path,
            where=self.source.where,
            out=str(out),
            model=self.model,
            route=route,
            plan=spending,
            pipeline=self.pipeline,
            store=store,
            quiet=True,
        )
        begun = perf_counter()
        summary = tag(request)
        summary["took"] = perf_counter() - begun
        told = pq.read_table(out, columns=["post_id", "tags"])
        place = {post_id: row for row, post_id in enumerate(told["post_id"].to_pylist())}
        lists = [[one["id"] for one in own] for own in told["tags"].to_pylist()]
        given = pa.table({"tags": pa.array([lists[place[post_id]] for post_id in self.ids], pa.list_(pa.string()))})
        chosen = gold_matrix([given], self.taxonomy)
        return {name: micro_f1(chosen[mask], self.gold[mask]) for name, mask in self.groups.items()}, summary


def curve(bench: Bench, plan: dict[str, Any], start: Path | None) -> list[list[str]]:
    """Return rows of the table; the store of each run is a copy of `start`, or empty."""

    def fresh() -> Path:
        store = bench.folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, store)
        return store

    spent = BudgetPlan(network_rate=0.0, floor=plan["floor"], prices=plan["prices"], loading=plan["loading"])
    text, told = bench.run("text", bench.folder / "never")
    rows = [row("text alone", text, text, text, told["took"], None, told)]
    # What it takes to look at everything, and then what all taggers make of it.
    _, told = bench.run("fused", fresh())
    seconds = told["took"]
    whole, _ = bench.run("cascade", bench.folder / "store", BudgetPlan(rate=-1e9, network_rate=0.0))
    for tenth in TENTHS:
        budget = seconds * tenth / 10
        rate = next((point["rate"] for point in plan["curve"] if point["seconds"] >= budget), plan["floor"])
        quality, told = bench.run("cascade", fresh(), replace(spent, rate=rate, budget=budget))
        rows.append(row(f"cascade, {tenth}0 %", quality, text, whole, told["took"], budget, told))
    knee, told = bench.run("cascade", fresh())
    rows.append(row("cascade, knee", knee, text, whole, told["took"], None, told))
    return [*rows, row("everything", whole, text, whole, seconds, None, {})]


def row(
    name: str,
    quality: dict[str, float],
    text: dict[str, float],
    whole: dict[str, float],
    took: float,
    budget: float | None,
    told: dict[str, Any],
) -> list[str]:
    """Return the cells of a line."""
    cells = [
        name,
        "" if budget is None else f"{budget:.1f}",
        f"{took:.1f}",
        "" if budget is None else f"{took / budget:.2f}",
    ]
    for group, value in quality.items():
        gain = whole[group] - text[group]
        cells.append(f"{value:.3f}" + (f" ({(value - text[group]) / gain:.0%})" if gain > 0 else ""))
    sample = told.get("cascade", {}).get("sample", {})
    return [*cells, f"{sample['kept']:.2f}" if "kept" in sample else ""]


def speed(bench: Bench, store: Path) -> list[list[str]]:
    """Return CPU microseconds a post (the least of some rounds) and micro-F1 of each route where all pictures are known."""
    tagger, settings = choose_tagger(bench.model, None, "cascade", bench.pipeline)
    context = open_context(settings, store, 0, True, partial=True)
    with Run.open(bench.folder / "speed.run", {}) as run:
        parts = ingest(run, bench.source, None, True)
        link(run, parts, context)
        words = open_vector_words(open_taxonomy(tagger), open_codebook(tagger), context)
        read = [read_part(run, part, context, words, with_vectors=True) for part in parts]
        tables = [table for some in read for table in some]
    tagger = replace(tagger, stages=tuple(context.fingerprints))
    taggers = {name: replace(tagger, route=name) for name in ("text", "fast", "fused", "cascade")}
    # Where all pictures are known the network is all that costs: higher rates ask it less.
    taggers |= {f"cascade, rate {rate}": replace(tagger, plan=BudgetPlan(rate=rate)) for rate in (1.0, 2.0, 4.0)}
    answerers = {name: open_answerer(own) for name, own in taggers.items()}
    spent = dict.fromkeys(answerers, float("inf"))
    for _ in range(ROUNDS):
        for route, answer in answerers.items():
            begun = process_time()
            chosen = [answer(table)[0] for table in tables]
            spent[route] = min(spent[route], (process_time() - begun) / len(bench.ids) * 1e6)
    rows = []
    for route, answer in answerers.items():
        order = {post_id: at for at, post_id in enumerate(bench.ids)}
        told = [order[post_id] for table in tables for post_id in table["post_id"].to_pylist()]
        chosen = [answer(table)[0] for table in tables]
        right = micro_f1(_stack(chosen), bench.gold[told])
        rows.append([route, f"{spent[route]:.0f}", f"{spent[route] / spent['fast']:.2f}", f"{right:.4f}"])
    return rows


def _stack(blocks: Sequence[Any]) -> Any:
    from scipy.sparse import csr_matrix, vstack

    return csr_matrix(vstack(blocks))


def train(options: argparse.Namespace, pipeline: Pipeline, folder: Path) -> Path:
    """Train a cascade on the posts of split train; return its folder."""
    about = train_model(
        TrainRequest(
            posts=str(options.posts),
            where="split = 'train'",
            valid="split = 'valid'",
            taxonomy=options.taxonomy,
            model=folder / "model",
            pipeline=pipeline,
            tagger="cascade",
            network=options.network,
            tune_seconds=options.tune_seconds,
            store=options.store or folder / "training",
            quiet=True,
        )
    )
    print(f"trained: {about['cascade']}\n", flush=True)
    return folder / "model"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path, help="CSV with columns split (train, valid, test), text, images, tags")
    parser.add_argument("taxonomy", type=Path)
    parser.add_argument("-p", "--pipeline", help="how pictures are looked at (default: lite)")
    parser.add_argument("--model", type=Path, help="a model with a cascade (default: one is trained)")
    parser.add_argument("--store", type=Path, help="store for the training (default: a temporary one)")
    parser.add_argument("--network", default="concat")
    parser.add_argument("--tune-seconds", type=float, default=30)
    options = parser.parse_args()
    taxonomy, pipeline = load(options.taxonomy), read_pipeline(options.pipeline)
    print(f"{date.today()}, {platform.machine()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as name:
        folder = Path(name)
        model = options.model or train(options, pipeline, folder)
        bench = Bench(options.posts, taxonomy, model, pipeline, folder)
        plan = plan_tagging(
            PlanRequest(
                posts=bench.source.path,
                where=bench.source.where,
                model=model,
                out=folder / "plan.json",
                budget="60s",
                sample=150,
                pipeline=pipeline,
                store=folder / "planned",
                quiet=True,
            )
        )
        head = [
            "run",
            "budget s",
            "took s",
            "ratio",
            *(f"micro-F1 {name} (of the gain)" for name in bench.groups),
            "said to keep",
        ]
        counts = ", ".join(f"{int(mask.sum()):,} {name}" for name, mask in bench.groups.items())
        print(f"From an empty store ({counts}):\n")
        print_table(head, curve(bench, plan, None))
        most = folder / "most"
        known = f"({TEST}) AND hash(post_id) % 5 < 4"
        out, looks = str(folder / "known.parquet"), {"pipeline": pipeline, "store": most, "quiet": True}
        tag(TagRequest(posts=str(options.posts), where=known, out=out, model=model, route="fused", **looks))
        print("\nFrom a store that knows four posts of five:\n")
        print_table(head, curve(bench, plan, most))
        print("\nAll pictures known, one process:\n")
        bench.run("fused", folder / "all")
        print_table(["route", "us/post", "of fast", "micro-F1"], speed(bench, folder / "all"))


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
