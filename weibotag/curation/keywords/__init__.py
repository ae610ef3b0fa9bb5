"""Keywords: the vocabulary of each channel, its clusters, what pictures show, features for a recommender."""
