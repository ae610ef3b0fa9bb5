"""Weights by name: a folder, the cache, a package, or fetched."""
