"""A model from anybody gives no permissions, and names no weights but those that are known."""

import hashlib
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from commands import ask

from weibotag.core.errors import ModelError, OwnFileError
from weibotag.extraction.settings import Pipeline, look_as_trained
from weibotag.taggers.fasttext_file import check_fasttext
from weibotag.vision.stage import TrainedLooks

MODEL = Path("model")


class Evil:
    """What writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


def looks(stage: str, **settings: object) -> TrainedLooks:
    media = {"max_bytes": 1, "max_clip_bytes": 1, "max_pixels": 1, "max_frames": 1}
    return {"stages": {stage: settings}, "fingerprints": {}, "media": media}


def hashed(path: Path) -> str:
    return f"{path}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_pickle_is_never_a_models_choice(tmp_path: Path, example_model: Path) -> None:
    import shutil

    mark, weights = tmp_path / "ran", tmp_path / "evil.pt"
    weights.write_bytes(pickle.dumps(Evil(mark)))
    own = {"backend": "ultralytics", "model": hashed(weights), "allow_pickle": True}
    with pytest.raises(ModelError, match=r"detect looks with: .*evil.pt is a pickle.*-p"):
        look_as_trained(Pipeline(), looks("detect", **own), MODEL)
    assert look_as_trained(Pipeline(), looks("detect", **own), MODEL, partial=True).stages == ()
    shutil.copytree(example_model, tmp_path / "model")
    about = json.loads((tmp_path / "model" / "model.json").read_bytes())
    (tmp_path / "model" / "model.json").write_text(json.dumps(about | {"stages": {"detect": own}}))
    (tmp_path / "p.csv").write_text("post_id,text,images\n1,口红,a.png\n")
    done = ask("tag", str(tmp_path / "p.csv"), "-m", str(tmp_path / "model"), "-o", str(tmp_path / "o.csv"))
    assert done.exit_code == 2 and "is a pickle" in done.stderr and not mark.exists()


def test_permissions_of_a_model_count_for_nothing() -> None:
    found = look_as_trained(Pipeline(), looks("detect", backend="ultralytics", allow_pickle=True), MODEL)
    assert "allow_pickle" not in found.stage_settings["detect"]
    mine = Pipeline(stages=("detect",), stage_settings={"detect": {"allow_pickle": True}})
    assert look_as_trained(mine, looks("detect"), MODEL).stage_settings["detect"] == {"allow_pickle": True}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "hf:some/body", "timm:some", "https://some.where/x.onnx", "x.onnx", "//host/x.onnx"]
)
def test_weights_that_a_model_may_not_name(name: str) -> None:
    with pytest.raises(ModelError, match="may not choose for you"):
        look_as_trained(Pipeline(), looks("embed", backend="detector", model=name), MODEL)
    with pytest.raises(ModelError, match="may not choose for you"):
        look_as_trained(Pipeline(), looks("faces", vectors=name), MODEL)


def test_weights_with_a_hash_are_taken_as_they_were_trained_with(tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    path.write_bytes(b"weights")
    for name in (hashed(path), "PP-OCRv6_det_small.onnx"):
        found = look_as_trained(Pipeline(), looks("embed", backend="detector", model=name), MODEL)
        assert found.stage_settings["embed"]["model"] == name


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import fasttext

    folder = tmp_path_factory.mktemp("fast")
    (folder / "t").write_text("__label__0 a b c\n__label__1 d e f\n" * 20)
    options = {"dim": 4, "bucket": 50, "wordNgrams": 2, "epoch": 1, "thread": 1, "verbose": 0, "minn": 0, "maxn": 0}
    fasttext.train_supervised(str(folder / "t"), loss="ova", **options).save_model(str(folder / "m"))
    return (folder / "m").read_bytes()


def test_a_whole_fasttext_file_passes_and_others_do_not(fast: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(fast)
    check_fasttext(path, 2)
    with pytest.raises(OwnFileError):
        check_fasttext(path, 1)
    draw = np.random.default_rng(0)
    head = 64 + 28
    for at in [*range(head), *draw.integers(head, len(fast), 40).tolist()]:
        path.write_bytes(fast[:at])
        with pytest.raises(OwnFileError):
            check_fasttext(path, 2)
    for place, value in ((8, 0), (8, 2**31 - 1), (28, -1), (32, 1), (40, 0), (44, 6), (64, 2**30), (68, -5), (72, 2**20)):
        path.write_bytes(fast[:place] + struct.pack("<i", value) + fast[place + 4 :])
        with pytest.raises(OwnFileError):
            check_fasttext(path, 2)
