"""Scores to decisions, decisions to figures."""
