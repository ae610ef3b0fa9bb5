import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from weibotag.cli.main import app
from weibotag.core.schema import arrow_schema
from weibotag.runtime.findings_store import Store
from weibotag.vision import registry
from weibotag.vision.registry import REGISTRY
from weibotag.vision.weights.catalogue import VARIABLE as MODELS_VARIABLE
from weibotag.workflows import doctor

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RELEASES = st.lists(st.integers(0, 30), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIBOTAG_STORE", str(tmp_path / "store"))
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)


def find(rows: Sequence[Any], **values: str) -> Any:
    (row,) = [row for row in rows if values.items() <= vars(row).items()]
    return row


def test_everything_is_there_and_lite_runs() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    state = json.loads(result.stdout)
    assert state["lite"]["fault"] is None
    assert [row for row in state["libraries"] if row["fix"]] == []
    wanted = {re.split(r"[<>=]", text)[0].lower() for text in PROJECT["dependencies"]}
    assert {row["name"].lower() for row in state["libraries"]} == wanted
    assert {row["name"] for row in state["extras"]} == set(PROJECT["optional-dependencies"]) - {"all"}
    assert {(row["stage"], row["name"]) for row in state["backends"]} == {key for key in REGISTRY if key[0] != "stage"}
    assert {row["backend"] for row in state["weights"]} >= {"ocr rapidocr", "faces haar", "embed efficientnet"}
    assert all(row["ready"] and Path(row["path"]).is_file() for row in state["weights"])


def test_the_tables_say_the_same() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for expected in ("rapidocr", "PP-OCRv6_det_small.onnx", "haarcascade", "weibotag[cuda]", "the pipeline lite runs"):
        assert expected in result.stdout


def test_a_missing_library_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.find_version
    monkeypatch.setattr(doctor, "find_version", lambda name: None if name == "rapidocr" else found(name))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 2
    assert re.fullmatch(r"error: the pipeline lite can't run: pip install 'rapidocr[<>=.,\d]+'\n", result.stderr)
    state = json.loads(result.stdout)
    assert [row["name"] for row in state["libraries"] if row["fix"]] == ["rapidocr"]


def test_a_library_of_the_wrong_version_is_as_good_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.find_version
    monkeypatch.setattr(doctor, "find_version", lambda name: "5.0.1" if name.startswith("opencv") else found(name))
    row = find(doctor.list_libraries()[0], name="opencv-python-headless")
    assert row.found == "5.0.1"
    assert row.fix.startswith("pip install 'opencv-python-headless")


def test_a_backend_whose_library_is_absent_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry.find_spec
    monkeypatch.setattr(registry, "find_spec", lambda library: None if library == "onnx" else found(library))
    backends, _ = doctor.list_backends()
    assert "pip install" in find(backends, stage="embed", name="efficientnet").fault
    assert find(backends, stage="ocr", name="rapidocr").fault is None


def test_an_extra_that_is_not_whole_names_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_version", lambda name: None if name == "torchvision" else "999")
    extras = doctor.list_libraries()[1]
    yolo = find(extras, name="yolo")
    assert yolo.missing == ["torchvision"]
    assert yolo.fix == "pip install 'weibotag[yolo]'"
    assert find(extras, name="paddle").fix is None


def test_onnxruntime_for_cuda_takes_the_place_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"}
    monkeypatch.setattr(doctor, "find_version", there.get)
    assert find(doctor.list_libraries()[1], name="cuda").fix == doctor.CPU_BUILD
    del there["onnxruntime"]
    libraries, extras = doctor.list_libraries()
    assert find(libraries, name="onnxruntime").fix is None
    assert find(extras, name="cuda").fix is None


def test_yunet_is_looked_for_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MODELS_VARIABLE in find(doctor.list_backends()[0], name="yunet").fault
    weights = tmp_path / "face_detection_yunet_2023mar.onnx"
    weights.write_bytes(b"not a network")
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    backends, files = doctor.list_backends()
    assert find(backends, name="yunet").fault is None
    assert find(files, backend="faces yunet") == doctor.WeightsState("faces yunet", str(weights), True)


def test_weights_that_are_there_but_broken_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "face_detection_yunet_2023mar.onnx").write_bytes(b"not a network")
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the pipeline lite can't run: faces: ")
    assert result.stderr.count("\n") == 1


def test_the_store_is_measured() -> None:
    root = Path(str(doctor.measure_store().folder))
    assert doctor.measure_store() == doctor.StoreState(str(root), None, [])
    Store(root).write("ocr", "a" * 12, arrow_schema("ocr").empty_table())
    assert doctor.measure_store().folders == []
    rows: list[dict[str, Any]] = [{"media_id": "one", "ocr_lines": [], "ocr_error": None}]
    Store(root).write("ocr", "a" * 12, pa.Table.from_pylist(rows, schema=arrow_schema("ocr")))
    (folder,) = doctor.measure_store().folders
    assert (folder.stage, folder.fingerprint, folder.parts, folder.rows) == ("ocr", "a" * 12, 1, 1)
    assert folder.bytes > 0


def test_a_store_that_cannot_be_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WEIBOTAG_STORE", str(tmp_path / "file" / "store"))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 2
    assert "choose another store" in json.loads(result.stdout)["lite"]["fault"]


def test_weibotag_that_was_not_installed_is_a_request_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGE", "no-such-package")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 2
    assert "not installed" in result.stderr


@given(RELEASES, RELEASES)
def test_bounds_agree_with_the_order_of_numbers(found: list[int], bound: list[int]) -> None:
    version, limit = (".".join(map(str, numbers)) for numbers in (found, bound))
    width = max(len(found), len(bound))
    reaches = found + [0] * (width - len(found)) >= bound + [0] * (width - len(bound))
    assert doctor.meets(version, f">={limit}") is reaches
    assert doctor.meets(version, f"<{limit}") is not reaches
    assert doctor.meets(version, f"<{limit},>={limit}") is False


@pytest.mark.parametrize(
    ("version", "wants", "met"),
    [("4.14.0.94", "<5,>=4.10", True), ("5.0.0rc1", "<5,>=4.10", False), ("3.11", ">=3.10,<3.11", False), ("1.0", "", True)],
)
def test_bounds_as_they_stand_in_metadata(version: str, wants: str, met: bool) -> None:
    assert doctor.meets(version, wants) is met
