"""Tag social posts (text, pictures) with hierarchical tags and keywords, in batches."""

import os

__version__ = "0.2.0"

# onnxruntime sends usage data over the network unless told otherwise before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
