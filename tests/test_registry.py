import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.vision import registry
from weibotag.vision.registry import REGISTRY, Entry, load, names

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [key for key, entry in REGISTRY.items() if entry.extra is None]


@pytest.mark.parametrize(("kind", "name"), CORE)
def test_what_needs_no_extra_is_there(kind: str, name: str) -> None:
    assert isinstance(load(kind, name), type)


@pytest.mark.parametrize(("kind", "name"), REGISTRY)
def test_an_entry_names_an_extra_and_libraries_that_exist(kind: str, name: str) -> None:
    entry = REGISTRY[kind, name]
    assert entry.licence
    assert bool(entry.libraries) == (kind != "stage")
    if entry.extra is not None:
        assert entry.extra in PROJECT["optional-dependencies"]


def test_libraries_of_core_backends_are_those_that_weibotag_installs() -> None:
    installed = {re.split(r"[<>=]", wanted)[0].lower() for wanted in PROJECT["dependencies"]}
    providers = packages_distributions()
    for key in CORE:
        for library in REGISTRY[key].libraries:
            assert installed & {name.lower() for name in providers[library]}, f"{key} imports {library}"


def test_names_are_those_of_one_kind() -> None:
    assert {"haar", "yunet"} <= set(names("faces"))
    assert names("nonsense") == []
    assert all("rapidocr" not in names(kind) for kind, _ in REGISTRY if kind != "ocr")


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"no ocr backend 'rapidorc'; did you mean 'rapidocr'\?"):
        load("ocr", "rapidorc")


def test_a_name_like_none_lists_those_that_there_are() -> None:
    with pytest.raises(RequestError, match=r"no faces backend 'q'; there are: .*haar, yunet"):
        load("faces", "q")


def test_a_missing_library_names_the_pip_line_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, ("ocr", "other"), Entry("nowhere:Other", ("no_such_library",), "paddle", "MIT"))
    with pytest.raises(MissingExtraError, match=r"^ocr with other needs: pip install 'weibotag\[paddle\]'$"):
        load("ocr", "other")


def test_a_missing_library_of_the_core_is_installed_with_weibotag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda library: None)
    with pytest.raises(RequestError, match="faces with haar needs the library cv2: pip install --upgrade weibotag"):
        load("faces", "haar")


def test_importing_the_registry_imports_no_backend() -> None:
    listing = "import sys, weibotag.vision.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "weibotag.vision.registry" in loaded
    assert not loaded & {library for entry in REGISTRY.values() for library in entry.libraries}
