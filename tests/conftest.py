"""What many tests share. What takes long to make is made once for all of them, when the first test asks for it."""

import os
import shutil
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import add_pictures, ask, enter
from filelock import FileLock
from hypothesis import settings
from model_servers import Server

from weibotag.taxonomy.tree import Taxonomy, load

# How long an example takes says how busy the machine is.
settings.register_profile("weibotag", deadline=None)
settings.load_profile("weibotag")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
WEIBO = ROOT / "taxonomies" / "weibo.csv"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a small taxonomy (tree.csv), three posts of text (posts.csv) and a store of its own."""
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def pictures(folder: Path) -> Path:
    """Go to such a folder, which has posts with pictures, too (seen.csv): sound, damaged and absent ones, and a clip."""
    return add_pictures(folder)


@pytest.fixture(scope="session")
def weibo() -> Taxonomy:
    """The taxonomy weibo.csv."""
    return load(WEIBO)


@pytest.fixture(scope="session")
def example_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model (fast, first settings) trained on the labelled posts of examples/, and the store that it took.

    Made once, whichever process needs it first; not to be changed.
    """
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "example-training"
    with FileLock(f"{place}.lock"):
        if not (place / "model").exists():
            words = ("train", str(EXAMPLES / "posts.csv"), "-t", str(WEIBO), "-o", str(place / "model"))
            where = ("--where", "split <> 'test'", "--valid", "split = 'valid'")
            done = ask(*words, *where, "--store", str(place / "store"), "--tagger", "fast", "--tune-seconds", "0", "-q")
            assert done.exit_code == 0, done.output
    return place


@pytest.fixture(scope="session")
def example_store(example_training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that knows the pictures of the labelled posts of examples/."""
    return Path(shutil.copytree(example_training / "store", tmp_path_factory.mktemp("example") / "store"))


@pytest.fixture(scope="session")
def example_model(example_training: Path) -> Path:
    """That model; not to be changed."""
    return example_training / "model"


@pytest.fixture(scope="session")
def store(example_store: Path) -> Path:
    """That store, where a file of tests has none of its own."""
    return example_store


@pytest.fixture(scope="session")
def model(example_model: Path) -> Path:
    """That model, where a file of tests has none of its own."""
    return example_model


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that gives a small file of weights."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a cache, a hub cache and a working folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("WEIBOTAG_MODELS", raising=False)
    if find_spec("huggingface_hub") is not None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
