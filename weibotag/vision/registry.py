"""Which class stands behind a name: imported when used, so that nothing heavy loads before it is needed."""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

from weibotag.core.errors import MissingExtraError, RequestError


@dataclass(frozen=True)
class Entry:
    """Where a backend lives (`module:Class`), the modules it imports, the extra that installs them, its licence."""

    target: str
    libraries: tuple[str, ...]
    extra: str | None
    licence: str


# What turns texts into vectors unless another is named, and how much of a text it reads: a post says early what it is about,
# and the price grows with the length.
USE, MOST_CHARACTERS = "use", 100
BACKENDS = "weibotag.vision.backends"
REGISTRY: dict[tuple[str, str], Entry] = {
    ("ocr", "rapidocr"): Entry(f"{BACKENDS}.ocr_rapidocr:RapidOcr", ("rapidocr", "onnxruntime"), None, "Apache-2.0"),
    ("ocr", "fasterpaddle"): Entry(
        f"{BACKENDS}.ocr_fasterpaddle:FasterPaddle", ("faster_paddle", "rapidocr", "onnxruntime"), "fastocr", "MIT"
    ),
    ("ocr", "paddleocr"): Entry(
        f"{BACKENDS}.ocr_paddleocr:PaddleOcr", ("paddleocr", "rapidocr", "onnxruntime"), "paddle", "Apache-2.0"
    ),
    ("detect", "ultralytics"): Entry(
        f"{BACKENDS}.detect_ultralytics:Ultralytics", ("ultralytics", "torch", "torchvision"), "yolo", "AGPL-3.0"
    ),
    ("detect", "transformers"): Entry(
        f"{BACKENDS}.detect_transformers:Transformers", ("transformers", "torch", "torchvision"), "hf", "Apache-2.0"
    ),
    ("faces", "haar"): Entry(f"{BACKENDS}.faces_opencv:Haar", ("cv2",), None, "Apache-2.0"),
    ("faces", "yunet"): Entry(
        f"{BACKENDS}.faces_opencv:YuNet", ("cv2", "onnxruntime", "onnx"), None, "Apache-2.0 (weights MIT)"
    ),
    ("embed", "efficientnet"): Entry(
        f"{BACKENDS}.embed_efficientnet:EfficientNetLite", ("onnxruntime", "onnx", "cv2"), None, "Apache-2.0"
    ),
    ("embed", "ppocr"): Entry(
        f"{BACKENDS}.embed_onnxruntime:PpocrBackbone", ("rapidocr", "onnxruntime", "onnx", "cv2"), None, "Apache-2.0"
    ),
    ("embed", "detector"): Entry(
        f"{BACKENDS}.embed_onnxruntime:DetectorBackbone", ("rapidocr", "onnxruntime", "onnx", "cv2"), None, "Apache-2.0"
    ),
    ("embed", "transformers"): Entry(
        f"{BACKENDS}.embed_transformers:TransformersVision", ("transformers", "torch"), "hf", "Apache-2.0"
    ),
    ("embed", "chineseclip"): Entry(
        f"{BACKENDS}.embed_transformers:ChineseClip", ("transformers", "torch"), "hf", "Apache-2.0"
    ),
    ("stage", "ocr"): Entry("weibotag.vision.ocr:Ocr", (), None, "Apache-2.0"),
    ("stage", "detect"): Entry("weibotag.vision.detect:Detect", (), None, "Apache-2.0"),
    ("stage", "faces"): Entry("weibotag.vision.faces:Faces", (), None, "Apache-2.0"),
    ("stage", "embed"): Entry("weibotag.vision.embed:Embed", (), None, "Apache-2.0"),
}


def names(kind: str) -> list[str]:
    """Return the names registered under `kind`."""
    return [name for entry_kind, name in REGISTRY if entry_kind == kind]


def load(kind: str, name: str) -> type:
    """Import and return the class registered as (kind, name).

    Raises RequestError for an unknown name (with the nearest known one) and MissingExtraError when a library is absent.
    """
    entry = REGISTRY.get((kind, name))
    if entry is None:
        near = get_close_matches(name, names(kind), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names(kind))}"
        what = kind if kind == "stage" else f"{kind} backend"
        raise RequestError(f"no {what} {name!r}{hint}")
    for library in entry.libraries:
        if find_spec(library) is None:
            if entry.extra is None:
                raise RequestError(f"{kind} with {name} needs the library {library}: pip install --upgrade weibotag")
            raise MissingExtraError(f"{kind} with {name}", entry.extra)
    module, _, attribute = entry.target.partition(":")
    found: type = getattr(import_module(module), attribute)
    return found
