"""The cascade: which step is worth its price, post by post."""
