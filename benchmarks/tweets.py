"""What given words bring: text alone, with print, with image words, with both, for each tagger, over several seeds.

    python benchmarks/tweets.py POSTS.csv --seeds 5

POSTS has columns text, ocr_text, image_words, tags and split (train, test). Tags of at least 20 training posts are a flat
taxonomy; posts without any of them are left out. With each seed another fifth of train is held out, to choose thresholds on
and what fastText is tuned to. Prints Markdown: micro-F1 and precision at 1 on test, mean ± standard deviation.

The last table is a cascade that buys the given words post by post, print and image words at the prices of the stages that
would find them: micro-F1 on test where so much of the cost of all words is spent.
"""

import argparse
import platform
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource
from weibotag.posts.supplied_words import add_given
from weibotag.scoring.closure import blend
from weibotag.scoring.decision import choose_thresholds, decide, fit_calibration, micro_f1
from weibotag.taggers.cascade.policy import given
from weibotag.taggers.cascade.simulation import CascadeSimulation, PolicyOutcome
from weibotag.taggers.fasttext import FastScorer, train
from weibotag.taggers.linear import train_linear
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.training.cascade import learn_cascade
from weibotag.training.cascade_tagger import train_steps
from weibotag.training.dataset import Dataset, LearningOptions, Lesson, NetworkOptions, blake, gold_matrix
from weibotag.training.fasttext import first_settings, tune
from weibotag.training.learners import Trainer, fit_linear
from weibotag.training.network.fit import train_fused
from weibotag.training.network.settings import Settings, TrainingRun
from weibotag.vision.stage import stage_class

FEWEST_POSTS = 20
FOLDS = 5
VIEWS = {
    "text": {},
    "+ print": {"ocr": "ocr_text"},
    "+ image words": {"object": "image_words"},
    "+ both": {"ocr": "ocr_text", "object": "image_words"},
}
# Who would find given words, and the shares of their cost that a cascade spends.
STAGES = ("ocr", "detect")
PRICES = {"text": 0.02, "fast": 0.02, "encode": 0.6, "fused": 0.06}
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Scores of the held-out posts, by which they are calibrated, and of those of test.
Scores = tuple[csr_matrix, ...]


def read_table(path: Path) -> pa.Table:
    """Return the posts as the product reads them."""
    with Rejects() as rejects:
        return pa.concat_tables(read_posts(PostsSource(str(path)), rejects))


def make_taxonomy(posts: pa.Table) -> Taxonomy:
    """Return the tags that enough training posts have, none below another."""
    counts = Counter(pc.list_flatten(posts.filter(pc.equal(posts["split"], "train"))["tags"]).to_pylist())
    names = sorted(tag for tag, count in counts.items() if count >= FEWEST_POSTS)
    return Taxonomy([Tag(name, None, name, (), (), line) for line, name in enumerate(names, start=2)])


def pick(posts: pa.Table, gold: csr_matrix, mask: np.ndarray) -> Dataset:
    """Return the posts of a mask with their gold tags."""
    return Dataset([posts.filter(pa.array(mask))], gold[mask])


def run_flat(
    trained: Dataset, held: Dataset, tested: Dataset, taxonomy: Taxonomy, seed: int, seconds: float
) -> dict[str, Scores]:
    """Return the raw scores of the taggers that are no networks."""
    found: dict[str, Scores] = {}
    first = first_settings(trained.gold.shape[0])
    _, tuned, _ = tune(Lesson(trained, held, taxonomy, LearningOptions(seconds, quiet=True)))
    for name, settings in (
        ("fast, characters, 3-grams", first),
        ("fast, words, 3-grams", replace(first, spacing="words")),
        ("fast, words, 2-grams", replace(first, spacing="words", wordNgrams=2)),
        ("fast, words", replace(first, spacing="words", wordNgrams=1)),
        ("fast, tuned", tuned),
    ):
        tagger = FastScorer(taxonomy, train(trained.write_lines(settings.spacing), trained.gold, settings, seed=seed))
        found[name] = tuple(tagger.score_lines(rows.write_lines(settings.spacing)) for rows in (held, tested))
    linear = train_linear(trained.tables, trained.gold, taxonomy)
    found["linear"] = tuple(linear.raw_scores(rows.tables[0]) for rows in (held, tested))
    reading = fit_linear(Lesson(trained, held, taxonomy, LearningOptions(seconds, quiet=True))).scorer
    found["linear, as `train` learns it"] = tuple(reading.raw_scores(rows.tables[0]) for rows in (held, tested))
    one, other = found["fast, tuned"], found["linear"]
    found["average of fast, tuned and linear"] = blend(one[0], other[0], 0.5), blend(one[1], other[1], 0.5)
    return found


def measure(scores: Scores, held: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> tuple[float, float]:
    """Return micro-F1 and precision at 1 on test, calibrated and with thresholds chosen on the held-out posts."""
    fitted = fit_calibration(scores[0], held)
    chosen, tested = fitted.apply(scores[0]), fitted.apply(scores[1])
    cuts = choose_thresholds(chosen, held, taxonomy)
    first = np.asarray(tested.argmax(axis=1)).ravel()
    right = np.asarray(gold[np.arange(gold.shape[0]), first]).ravel() * (tested.max(axis=1).toarray().ravel() > 0)
    return micro_f1(decide(tested, cuts, taxonomy), gold), float(right.mean())


def buy(
    trained: Dataset, held: Dataset, tested: Dataset, taxonomy: Taxonomy, seed: int, epochs: int
) -> dict[str, list[float]]:
    """Return micro-F1 of a cascade, over all posts and those with words to buy, for each share of the cost of all words."""
    settings = Settings(epochs=epochs, patience=max(6, epochs // 4))
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as folder:
        run = TrainingRun(Path(folder), seed, quiet=True)
        network, _ = train_fused(trained, held, taxonomy, NetworkOptions(), settings, run)
        first = replace(first_settings(trained.gold.shape[0]), spacing="words")
        trainer = Trainer(Lesson(trained, held, taxonomy, LearningOptions(30, quiet=True), first))
        taggers = train_steps(trainer, "linear", network)
        prices = {stage: stage_class(stage).nominal_ms for stage in STAGES} | PRICES
        cascade = learn_cascade(held.tables, held.gold, taxonomy, taggers, STAGES, prices)
        # What posts bring along stands for what would be found: nothing is known before it is bought.
        table = tested.tables[0]
        there = given(table, STAGES)
        left = np.stack([there >> place & 1 for place in range(len(STAGES))], axis=1)
        simulation = CascadeSimulation(cascade, table, there > 0, np.zeros(len(table), np.int64), left)

    def score(ends: PolicyOutcome) -> list[float]:
        chosen = simulation.answers(ends)
        return [micro_f1(chosen[mask], tested.gold[mask]) for mask in (np.ones(len(there), bool), there > 0)]

    whole = float((left @ [prices[stage] for stage in STAGES]).sum())
    rates = np.geomspace(1, 1e-9, 400)
    outcomes = [simulation.run(rate) for rate in rates]
    spent = np.array([ends.looking.sum() / whole for ends in outcomes])
    found = {f"{share:.0%}": score(outcomes[int(np.flatnonzero(spent <= share)[-1])]) for share in SHARES}
    return {"text alone": score(simulation.text_alone()), **found, "all, network": score(simulation.everything())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", default="concat,hma", help="names, joined by commas; none: ''")
    parser.add_argument("--epochs", type=int, default=50, help="of a network at most")
    parser.add_argument("--tune-seconds", type=float, default=4, help="for fastText's hyper-parameters, each time")
    options = parser.parse_args()
    posts = read_table(options.posts)
    taxonomy = make_taxonomy(posts)
    gold = gold_matrix([posts], taxonomy)
    labelled = np.diff(gold.indptr) > 0
    is_train = np.array([split == "train" for split in posts["split"].to_pylist()])
    folds = np.array([int(blake(post_id), 16) % FOLDS for post_id in posts["post_id"].to_pylist()])
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    spent: dict[str, float] = defaultdict(float)
    bought: dict[str, list[list[float]]] = {}
    for view, words in VIEWS.items():
        seen = add_given(posts, words)
        tested = pick(seen, gold, labelled & ~is_train)
        for seed in range(options.seeds):
            trained, held = (
                pick(seen, gold, labelled & is_train & mask) for mask in (folds != seed % FOLDS, folds == seed % FOLDS)
            )
            started = time.process_time()
            if view == "+ both":
                for name, pair in buy(trained, held, tested, taxonomy, seed, options.epochs).items():
                    bought.setdefault(name, []).append(pair)
            found = run_flat(trained, held, tested, taxonomy, seed + 1, options.tune_seconds)
            spent["flat"] += time.process_time() - started
            for network in filter(None, options.networks.split(",")):
                started = time.process_time()
                with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as folder:
                    settings = Settings(epochs=options.epochs, patience=max(6, options.epochs // 4))
                    run = TrainingRun(Path(folder), seed, quiet=True)
                    tagger, _ = train_fused(trained, held, taxonomy, NetworkOptions(network), settings, run)
                    found[network] = tagger.raw_scores(held.tables[0]), tagger.raw_scores(tested.tables[0])
                spent[network] += time.process_time() - started
            for name, scores in found.items():
                figures.setdefault(name, {}).setdefault(view, []).append(measure(scores, held.gold, tested.gold, taxonomy))
    sizes = f"{int((labelled & is_train).sum())} posts of train, {int((labelled & ~is_train).sum())} of test"
    print(f"{date.today()}, {platform.machine()}, {sizes}, {len(taxonomy)} tags, {options.seeds} seeds\n")
    for place, figure in enumerate(("micro-F1", "P@1")):
        print_row([figure, *VIEWS])
        print_row(["---"] * (1 + len(VIEWS)))
        for name, by_view in figures.items():
            print_row([name, *(spell([one[place] for one in by_view[view]]) for view in VIEWS)])
        print()
    print_row(["cost of words that is spent", "micro-F1, all", "posts with words"])
    print_row(["---"] * 3)
    for name, pairs in bought.items():
        print_row([name, *(spell([pair[place] for pair in pairs]) for place in (0, 1))])
    print()
    print("CPU seconds:", ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items()))


def spell(values: list[float]) -> str:
    """Return a mean with its standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def print_row(cells: Iterable[str]) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
