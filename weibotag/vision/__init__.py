"""Stages: each adds columns to a table, keyed by post or by picture."""
