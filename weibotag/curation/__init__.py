"""Vocabularies mended: tags and labels, keywords."""
