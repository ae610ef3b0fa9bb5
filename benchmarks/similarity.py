"""Whether text and pictures of a post are told from those of two posts, and what the network looked at for it.

    python benchmarks/similarity.py POSTS.csv --store STORE --epochs 10

A network learns from the pairs of split train, a tenth of them held out; the figures are of split test, through the exported
file, each post against its text with the pictures of four others whose texts differ. Prints Markdown.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score

from weibotag.extraction.context import open_context
from weibotag.extraction.ingest import ingest, link
from weibotag.extraction.pipeline_files import read_pipeline
from weibotag.extraction.post_table import read_part
from weibotag.extraction.schedule import look
from weibotag.features.post_arrays import read_arrays
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import Run
from weibotag.taggers.network import MATCH, Matcher, find_pairs
from weibotag.training.network.matching import OTHERS, draw_partners
from weibotag.training.network.pretraining import choose_settings, pretrain
from weibotag.training.network.settings import TrainingRun
from weibotag.vision.backends.onnx_session import open_session
from weibotag.workflows.run_stage import note_looks

SIDE = ("attention_print", "attention_words", "attention_pictures")
LONG = 10
NGRAM = 3
SHOWN = 6


def measure_auc(matcher: Matcher, posts: pa.Table) -> tuple[float, float, float]:
    """Return the AUC of true pairs against others, and the mean similarity of both."""
    _, keys = np.unique(np.array(posts["text"].to_pylist()), return_inverse=True)
    partners = draw_partners(torch.from_numpy(keys), OTHERS, torch.Generator().manual_seed(0)).numpy()
    true = matcher.measure(posts)
    torn = []
    for others in partners.T:
        swapped = posts
        for name in {"wordings", "vectors"}.intersection(posts.column_names):
            swapped = swapped.set_column(swapped.column_names.index(name), name, posts[name].take(pa.array(others)))
        torn.append(matcher.measure(swapped))
    told = np.concatenate([true, *torn])
    auc = roc_auc_score(np.arange(len(told)) < len(true), told)
    return float(auc), float(true.mean()), float(np.mean(torn))


def tell_steps(folder: Path, matcher: Matcher, posts: pa.Table) -> list[list[str]]:
    """Return a row for each post: the start of its text, its similarity, and the word and the region of each step."""
    session = open_session(folder / MATCH)
    batch = matcher.network.features.encode(posts).batch(np.arange(len(posts)))
    asked = {one.name: batch[one.name] for one in session.get_inputs()}
    words, *sides = session.run(["attention_text", *SIDE], asked)
    regions = np.concatenate(sides, axis=2)
    parts = read_arrays(posts).parts
    rows = []
    for at, (text, similarity) in enumerate(zip(posts["text"].to_pylist(), matcher.measure(posts), strict=True)):
        print_, named = (parts[name].row(at) for name in ("print", "words"))
        names = [f"print {chr(code)!r}" for code in print_.tolist()] + [""] * (sides[0].shape[2] - len(print_))
        names += [*named.to_pylist(), *[""] * (sides[1].shape[2] - len(named))]
        names += [f"picture {number + 1}" for number in range(sides[2].shape[2])]
        steps = []
        for word, region in zip(words[at], regions[at], strict=True):
            end = int(word.argmax()) + 1
            seen = int(region.argmax())
            steps.append(f"{text[max(0, end - NGRAM) : end]} {word.max():.2f}, {names[seen]} {region[seen]:.2f}")
        rows.append([text[:20].replace("\n", " "), f"{similarity:.2f}", *steps])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path, help="CSV with columns split (train, test), text, images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pipeline", help="how pictures are looked at (default: lite)")
    parser.add_argument("--store", type=Path, help="keeps what pictures say (default: looked at anew)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        context = open_context(read_pipeline(options.pipeline), options.store or folder / "store")
        sides: dict[str, pa.Table] = {}
        for split in ("train", "test"):
            with Run.open(folder / f"{split}.run", {}) as run:
                parts = ingest(run, PostsSource(str(options.posts), where=f"split = '{split}'"), None, True)
                link(run, parts, context)
                look(run, parts, context)
                tables = [table for part in parts for table in read_part(run, part, context, None, with_vectors=True)]
            sides[split] = pa.concat_tables(tables)
        held = np.random.default_rng(0).random(len(sides["train"])) < 0.1
        learnt = [[sides["train"].filter(pa.array(mask))] for mask in (~held, held)]
        settings = choose_settings("sm-lstm", options.epochs, None)
        about = pretrain(learnt[0], learnt[1], "sm-lstm", settings, TrainingRun(folder / "body", device="cpu"))
        note_looks(folder / "body", context)
        matcher = Matcher(folder / "body")
        tests = sides["test"].filter(pa.array(find_pairs(matcher.network.features.encode(sides["test"]))))
        long = tests.filter(pa.array([len(text) > LONG for text in tests["text"].to_pylist()]))
        print_table(
            ["posts", "number", "AUC", "mean of true pairs", "mean of others"],
            [
                [name, f"{len(table):,}", *(f"{figure:.3f}" for figure in measure_auc(matcher, table))]
                for name, table in (("all with text and picture", tests), (f"text above {LONG} characters", long))
            ],
        )
        print(f"\nheld out: AUC {about.figures['auc']:.3f}; {about.epochs} epochs, {about.seconds:.0f} s\n")
        rows = tell_steps(folder / "body", matcher, long.slice(0, SHOWN))
        print_table(["text", "similarity", *(f"step {number + 1}" for number in range(len(rows[0]) - 2))], rows)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
