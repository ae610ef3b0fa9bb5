"""Looking at pictures: which ones, by which workers, and joining what was found to posts."""
