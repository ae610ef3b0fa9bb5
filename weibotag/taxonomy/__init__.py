"""The tag tree: load, check, show."""
