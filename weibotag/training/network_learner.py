"""The networks' learner. Needs torch."""

from dataclasses import asdict

from weibotag.core.errors import RequestError
from weibotag.taggers.tagger import Ensemble
from weibotag.training.lesson import Learnt, Lesson
from weibotag.training.network.fit import train_fused
from weibotag.training.network.settings import NetworkRecipe, Settings, TrainingRun
from weibotag.training.network_taggers import read_tasks


def fit_fused(lesson: Lesson) -> Learnt:
    """Return the network that the options name; after a kill its training goes on where it was."""
    asked, options = lesson.options.network, lesson.options
    if options.folder is None:
        raise RequestError("training a network needs a folder in which it can go on after a kill")
    recipe = NetworkRecipe(asked.network, asked.start, asked.encoder, asked.encoder_training)
    run = TrainingRun(options.folder / asked.network, asked.seed, threads=options.threads, quiet=options.quiet)
    tasks = read_tasks(asked, lesson.trained, lesson.held)
    settings = Settings(minutes=asked.minutes)
    network, summary = train_fused(lesson.trained, lesson.held, lesson.taxonomy, recipe, settings, run, tasks)
    return Learnt(Ensemble.alone("fused", network), asdict(summary))
