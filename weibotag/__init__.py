"""Tag social posts (text, pictures) with hierarchical tags and keywords, in batches."""

__version__ = "0.1.0"
