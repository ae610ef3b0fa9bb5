import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weibotag.core.errors import RequestError
from weibotag.extraction.pipeline_files import choose_pipeline, read_pipeline
from weibotag.extraction.requests import TAGGERS, PipelineFile, Route
from weibotag.extraction.settings import MediaSettings, Pipeline, WorkerSettings
from weibotag.posts.source import PostsSource
from weibotag.vision.media.manners import WebSettings
from weibotag.vision.registry import names

KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
LITE = Path(__file__).parents[1] / "pipelines" / "lite.toml"


def write(folder: Path, text: str) -> str:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refuse(folder: Path, text: str) -> str:
    """Return what reading this pipeline file says."""
    with pytest.raises(RequestError) as caught:
        read_pipeline(write(folder, text))
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", [None, "lite"])
def test_lite_is_the_default(name: str | None) -> None:
    assert read_pipeline(name) == PipelineFile()


def test_lite_toml_is_the_default_written_out() -> None:
    written, default = read_pipeline(str(LITE)), Pipeline()
    assert (written.stages, written.media, written.workers) == (default.stages, default.media, default.workers)
    assert written.web == default.web
    for name in default.stages:
        assert written.make_stage(name).fingerprint() == default.make_stage(name).fingerprint()


def test_lite_toml_says_the_defaults_and_choices_of_every_table() -> None:
    text = LITE.read_text(encoding="utf-8")
    for name in ("train", "plan", "tag"):
        table = re.search(rf"^# \[{name}\]\n((?:# .*\n)+)", text, re.MULTILINE)
        assert table is not None
        lines = table[1].replace("# ", "", 1).replace("\n# ", "\n")
        values = tomllib.loads(lines)
        fields = PipelineFile.model_fields[name].annotation.__args__[0].model_fields  # type: ignore[union-attr]
        PipelineFile.model_validate({name: values}, context={"folder": Path()})
        for key, value in values.items():
            # Where there is a default it stands there; elsewhere an example.
            default = None if fields[key].is_required() else fields[key].default
            assert default in (None, "", {}) or value == (str(default) if isinstance(default, Path) else default), key
    for choices, key in ((TAGGERS, "tagger"), (get_args(Route), "route")):
        comment = re.search(rf"^# {key} = .*# (.*)", text, re.MULTILINE)
        assert comment is not None
        assert [word for word in re.findall(r"\w+", comment[1]) if word in choices] == list(choices)


def test_pipelines_name_engines_that_are_there() -> None:
    from weibotag.vision.backends.ocr_rapidocr import open_engine

    assert "auto or onnxruntime" in str(open_engine.__doc__)
    for path in LITE.parent.glob("*.toml"):
        assert not re.search(r"auto: (?!onnxruntime)", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", ["full", "gpu"])
def test_the_other_pipelines_are_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf: transformers is absent")
    monkeypatch.chdir(tmp_path)
    pipeline = read_pipeline(name)
    assert pipeline.stages == ("ocr", "detect", "faces", "embed")
    assert pipeline == read_pipeline(str(LITE.parent / f"{name}.toml"))


def test_every_package_is_installed() -> None:
    project = tomllib.loads((LITE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    code = LITE.parents[1] / "weibotag"
    folders = {".".join(("weibotag", *path.parent.relative_to(code).parts)) for path in code.rglob("*.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == folders | {"weibotag.pipelines", "weibotag.taxonomies"}


def test_lite_toml_leaves_out_no_setting_of_how_pictures_are_looked_at() -> None:
    data = tomllib.loads(LITE.read_text(encoding="utf-8"))
    for name in data["stages"]:
        stage = Pipeline().make_stage(name)
        taken = {*stage.own, *stage._settings()} - stage.config.machine  # type: ignore[attr-defined]
        assert set(data[name]) >= taken, name
    assert set(data["media"]) == set(MediaSettings.model_fields) and set(data["web"]) == set(WebSettings.model_fields)
    # The count of processes is the machine's unless said.
    assert set(data["workers"]) == set(WorkerSettings.model_fields) - {"count", "memory_mb"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage = ['ocr']", "unknown key 'stage'; did you mean 'stages'?"),
        ("[worker]\ncount = 1", "unknown key 'worker'; did you mean 'workers'?"),
        ("[media]\nmax_byte = 1", "unknown key 'media.max_byte'; did you mean 'max_bytes'?"),
        ("[workers]\npicture_second = 1", "unknown key 'workers.picture_second'; did you mean 'picture_seconds'?"),
        ("[tag]\nposts='p.csv'\nout='o.csv'\nmax_reject=1", "unknown key 'tag.max_reject'; did you mean 'max_rejects'?"),
        ("[train]\nposts='p'\ntaxonomy='t'\nmodel='m'\nvalidate='x'", "unknown key 'train.validate'; did you mean 'valid'?"),
        ("[ocr]\nmax_sied = 480", "[ocr]: unknown key 'max_sied'; did you mean 'max_side'?"),
        ("[faces]\nminimum = 1", "[faces]: unknown key 'minimum'; "),
        ("[media]\nqqq = 1", "unknown key 'media.qqq'; known are max_bytes, max_clip_bytes, max_pixels, max_frames"),
        ("stages = ['orc']", "no stage 'orc'; did you mean 'ocr'?"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, said: str) -> None:
    assert said in refuse(tmp_path, text)


@pytest.mark.parametrize("text", ["branch = '美妆'", "taxonomy = 't.csv'", "branch = 3\ntaxonomy = 't.csv'"])
def test_a_branch_and_its_taxonomy_go_together(tmp_path: Path, text: str) -> None:
    assert "branch and taxonomy go together" in refuse(tmp_path, f"[detect]\n{text}")


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ("stages = 3", "stages", "3"),
        ("[workers]\ncount = 'two'", "workers.count", "'two'"),
        ("[workers]\npicture_seconds = 0", "workers.picture_seconds", "0"),
        ("[media]\nmax_frames = 17", "media.max_frames", "17"),
        ("[ocr]\nmin_score = 1.5", "min_score", "1.5"),
        ("[tag]\nposts='p.csv'\nout='o.csv'\nroute='slow'", "tag.route", "'slow'"),
        ("[tag]\nout='o.csv'", "tag.posts", "o.csv"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_key(tmp_path: Path, text: str, key: str, found: str) -> None:
    said = refuse(tmp_path, text)
    assert f"{key}: " in said
    assert found in said


def test_the_file_is_named() -> None:
    with pytest.raises(RequestError, match="light: no such pipeline; expected lite, full, gpu or the path of a TOML file"):
        read_pipeline("light")


def test_what_is_not_toml_is_refused(tmp_path: Path) -> None:
    numbers = ("9" * 5_000, "0x" + "f" * 5_000, str(2**63))
    for value in ("[", "[" * 5_000 + "]" * 5_000, "{a=" * 500 + "1" + "}" * 500, '"\\ud800"', "'\0'", *numbers):
        said = refuse(tmp_path, f"stages = {value}")
        assert "my.toml: not TOML: " in said and "\n" not in said and len(said) < 500
    (tmp_path / "my.toml").write_bytes("stages = ['ocr'] # 中文".encode("gb18030"))
    with pytest.raises(RequestError, match=r"my\.toml: not TOML: "):
        read_pipeline(str(tmp_path / "my.toml"))


def test_the_store_is_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", "store = '../kept'")
    monkeypatch.chdir(tmp_path)
    store = read_pipeline("below/my.toml").store
    assert store is not None
    assert store.is_absolute()
    assert store.resolve() == tmp_path.resolve() / "kept"


def test_a_table_says_what_its_command_can_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    table = """
[train]
posts = 'posts.csv'
taxonomy = 'tree.csv'
model = 'model'
limit = 7
gallery = 'stars.gallery'
reuse = 'near'
seed = 3
start = 'body'
threads = 2
workers = 0
store = 'kept'
words = { ocr = 'print' }
memory = '4GB'
encoder = 'hf:owner/bert'
[plan]
posts = 'posts.csv'
model = 'model'
[tag]
posts = '-'
out = '-'
model = 'model'
deadline = '30m'
"""
    file = read_pipeline(write(tmp_path, table))
    assert file.train is not None and file.plan is not None and file.tag is not None
    assert file.train.source == PostsSource(str(tmp_path / "posts.csv"), limit=7, unite=True)
    assert (file.train.start, file.train.gallery) == (tmp_path / "body", tmp_path / "stars.gallery")
    assert (file.train.memory, file.train.encoder, file.plan.out) == (4e9, "hf:owner/bert", tmp_path / "plan.json")
    assert (file.tag.posts, file.tag.out, file.tag.deadline) == ("-", "-", 1800.0)
    pipeline = choose_pipeline(file.train)
    assert (pipeline.reuse, pipeline.store, pipeline.workers.count) == ("near", tmp_path / "kept", 0)
    assert pipeline.words == {"ocr": "print"}


def test_settings_reach_the_stage(tmp_path: Path) -> None:
    pipeline = read_pipeline(write(tmp_path, "stages = ['ocr']\n[ocr]\nmax_side = 480"))
    stage = pipeline.make_stage("ocr")
    assert stage.config.max_side == 480  # type: ignore[attr-defined]
    assert stage.fingerprint() != Pipeline().make_stage("ocr").fingerprint()


@given(st.dictionaries(st.sampled_from(list(WorkerSettings.model_fields)), st.integers(100, 900)))
def test_what_is_written_is_what_is_read(values: dict[str, int]) -> None:
    pipeline = Pipeline(**tomllib.loads("\n".join(["[workers]", *(f"{key} = {value}" for key, value in values.items())])))
    assert pipeline.workers.model_dump() == WorkerSettings().model_dump() | values


@given(KEYS.filter(lambda key: key not in {*PipelineFile.model_fields, *names("stage")}))
def test_no_unknown_key_gets_through(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    folder = tmp_path_factory.mktemp("pipelines")
    assert f"unknown key {key!r}" in refuse(folder, f"{key} = 1")
