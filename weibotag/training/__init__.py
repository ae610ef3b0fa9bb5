"""From labelled posts to a model."""
