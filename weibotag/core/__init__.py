"""What every package may use: errors, the schema, files, arrays, progress, the version."""

__version__ = "0.2.0"
