"""Tag social posts (text, pictures) with hierarchical tags and keywords, in batches."""

import os
from importlib import import_module

from weibotag.core import __version__

# As typing has it; importing that takes long enough for a Ctrl-C that nobody catches yet.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from weibotag.workflows.api import Model as Model
    from weibotag.workflows.api import Taxonomy as Taxonomy
    from weibotag.workflows.api import detect as detect
    from weibotag.workflows.api import embed as embed
    from weibotag.workflows.api import faces as faces
    from weibotag.workflows.api import ocr as ocr


__all__ = ["Model", "Taxonomy", "__version__", "detect", "embed", "faces", "ocr"]

# onnxruntime sends usage data over the network unless told otherwise before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> object:
    """Import what `weibotag.workflows.api` has when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'weibotag' has no attribute {name!r}")
    return getattr(import_module("weibotag.workflows.api"), name)
