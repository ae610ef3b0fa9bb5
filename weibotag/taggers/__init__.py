"""Posts and wordings in, sparse scores over the taxonomy out."""
