"""Tag social posts (text, pictures) with hierarchical tags and keywords, in batches."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weibotag.api import Model as Model
    from weibotag.api import Taxonomy as Taxonomy
    from weibotag.api import detect as detect
    from weibotag.api import embed as embed
    from weibotag.api import faces as faces
    from weibotag.api import ocr as ocr

__version__ = "0.2.0"
__all__ = ["Model", "Taxonomy", "__version__", "detect", "embed", "faces", "ocr"]

# onnxruntime sends usage data over the network unless told otherwise before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Import what `weibotag.api` has when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'weibotag' has no attribute {name!r}")
    return getattr(import_module("weibotag.api"), name)
