"""Vectors of characters and words before any tag is known: skipgram by fastText on the training posts."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from weibotag.features.post_batches import Posts
from weibotag.training.network.architectures.network import Network

# Tokens that fastText reads at most, all passes together (some ten seconds on one thread), and passes.
TOKENS, MOST = 2_000_000, 15
# Characters are fewer than words, so each is more frequent: by fastText's own threshold it would hardly read them.
FREQUENT = 1e-3
# The deviation of the numbers that the tables of networks start with.
DEVIATION = 0.1


def start_from_vectors(network: Network, posts: Posts, seed: int) -> None:
    """Put vectors of the posts' characters and words in the place of the random ones that a network starts with.

    Learnt without tags by fastText's skipgram (Bojanowski et al., 2017) on one thread: the same posts and seed give the same
    vectors. A token is a character, of text and print alike, as there is no segmenter, or a wording that is no print. What
    the posts do not have keeps its random vector, and so do hashed n-grams.
    """
    import fasttext

    parts = [(posts.parts[name], mark) for name, mark in (("text", "c"), ("print", "c"), ("words", "w"))]
    size = sum(len(part.values) for part, _ in parts)
    if not size:
        return
    rows = np.random.default_rng(seed).permutation(len(posts))[: max(1, len(posts) * TOKENS // max(size, TOKENS))]
    with tempfile.TemporaryDirectory(prefix="weibotag-") as folder:
        path = Path(folder) / "posts.txt"
        with path.open("w", encoding="ascii") as file:
            for row in rows.tolist():
                file.write(" ".join(f"{mark}{number}" for part, mark in parts for number in part.row(row).tolist()) + "\n")
        model = fasttext.train_unsupervised(
            str(path),
            model="skipgram",
            dim=network.words.words.embedding_dim,
            epoch=int(np.clip(TOKENS // size, 1, MOST)),
            minCount=1,
            minn=0,
            maxn=0,
            t=FREQUENT,
            thread=1,
            verbose=0,
        )
    names, vectors = model.get_words(), torch.from_numpy(model.get_input_matrix())
    # What all have in common tells none from another.
    vectors -= vectors.mean(0)
    vectors *= DEVIATION / vectors.std().clamp(min=1e-6)
    for mark, table in (("c", network.text.characters), ("w", network.words.words)):
        own = [(int(name[1:]), place) for place, name in enumerate(names) if name.startswith(mark)]
        numbers, places = np.array(own, np.int64).reshape(-1, 2).T
        table.weight.data[numbers] = vectors[places]
