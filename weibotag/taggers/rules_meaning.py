"""What the words in posts and what posts mean say together: a share of certainty for each tag, and for none of them."""

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit, logit

from weibotag.features.joint_space import JointSpace
from weibotag.features.tag_meanings import TagMeanings
from weibotag.features.text_vectors import Encoder
from weibotag.scoring.closure import raise_parents
from weibotag.taxonomy.tree import Taxonomy

# All constants are fitted by likelihood: on 60 posts written for it in 32 channels, those of examples/posts.csv that are not
# for testing, and the valid rows of labelled Weibo posts of three channels.
# First a softmax over all tags and none: what each sign of a tag adds to its logit.
OWN_WORDS, CHANNEL_WORDS = 2.74, 1.22
# The share of the strongest channel's evidence that a tag's channel has, alone and times what it has.
SHARE, SHARE_OF_WORDS = 0.97, 0.4
# Ten times the cosine of post and tag; more so where no word stands (evidence 0), less with the channel's mean cosine.
MEANING, MEANING_ALONE, CHANNEL_MEANING = 1.44, 0.53, -0.44
CHANNEL_ITSELF = 0.52
# What the cosines of pictures count, and those of texts beside them.
PICTURES, BESIDE_PICTURES = 0.6, 0.2
NONE = 6.84
# Then, as tags do not exclude each other, a logistic regression for each tag on the logits of what words alone score and of
# its share, in these bounds; whether a word stands at all, and whether it is a channel.
OFFSET, BY_WORDS, BY_SHARE, HAS_WORDS, IS_CHANNEL = -0.34, 0.08, 0.55, 1.27, -0.33
WORDS_BOUNDS, SHARE_BOUNDS = (0.02, 0.98), (0.001, 0.995)
# Fitted among so many tags, most of which have nothing to do with a post: a smaller taxonomy lacks what these drew away. The
# deviation of ten cosines with them.
FITTED_TAGS, DEVIATION = 1_000, 0.55
THRESHOLD = 0.3
LEAST_SHARE = 0.01
# Posts x tags at once.
CELLS = 1_000_000


class Meaning:
    """What a taxonomy's tags mean, and what reads posts."""

    def __init__(self, tags: TagMeanings, encode: Encoder) -> None:
        self._tags, self._space = tags.vectors, JointSpace(encode, tags.shared)

    def compare(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return how near posts of a table are to tags, (posts, tags) float32: cosines, of text and pictures together.

        And how much there is to compare, (posts,) from 0 to 1: a text is 1, pictures are as much as what they show is sure.
        """
        texts, pictures = self._space.read_texts(table), self._space.read_pictures(table)
        shown = np.linalg.norm(pictures, axis=1, keepdims=True)
        both = texts * (1 + (BESIDE_PICTURES - 1) * shown) + PICTURES * pictures
        return np.asarray(both @ self._tags.T), np.maximum(texts.any(axis=1), shown[:, 0])


def settle(
    own: csr_matrix,
    raised: csr_matrix,
    words: csr_matrix,
    meaning: tuple[np.ndarray, np.ndarray],
    taxonomy: Taxonomy,
    roots: np.ndarray,
) -> csr_matrix:
    """Return scores of posts, float32 csr_matrix (posts x tags): probabilities, no child's above its parent's.

    `own` is the evidence of words for each tag, `raised` with that for tags below, `words` what they score alone, `meaning`
    what `Meaning.compare` returned, `roots` each tag's channel. The less there is to compare, the more words alone decide.
    """
    cosines, said = meaning
    closure = taxonomy.closure_matrix().T.astype(np.float64)
    blocks = [csr_matrix((0, len(taxonomy)), dtype=np.float32)]
    rows = max(1, CELLS // max(1, len(taxonomy)))
    for start in range(0, own.shape[0], rows):
        some = slice(start, start + rows)
        # In double precision and rounded, so that nothing is left of how many posts were scored together.
        nearness = 10 * cosines[some].astype(np.float64)
        here, alone = said[some, None].astype(np.float64), words[some].toarray()
        shares = _share_out(own[some].toarray(), raised[some].toarray()[:, roots], nearness, here, taxonomy, roots)
        settled = _decide((closure @ shares.T).T, alone, taxonomy)
        blocks.append(csr_matrix((here * settled + (1 - here) * alone).round(4).astype(np.float32)))
    return csr_matrix(raise_parents(csr_matrix(vstack(blocks)), taxonomy))


def _decide(shares: np.ndarray, words: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """Return each tag's probability (posts, tags) float32 by its share and by what words score."""
    logits = OFFSET + BY_WORDS * logit(np.clip(words, *WORDS_BOUNDS)) + BY_SHARE * logit(np.clip(shares, *SHARE_BOUNDS))
    logits += HAS_WORDS * (words > 0) + IS_CHANNEL * (taxonomy.depth == 1)
    scores = expit(logits).round(4).astype(np.float32)
    scores[(words == 0) & (shares < LEAST_SHARE)] = 0
    return np.asarray(scores)


def _share_out(
    own: np.ndarray, channel: np.ndarray, nearness: np.ndarray, said: np.ndarray, taxonomy: Taxonomy, roots: np.ndarray
) -> np.ndarray:
    """Return probabilities of tags (posts, tags) by evidence for them, for their channels, and ten cosines."""
    strongest = channel.max(axis=1, keepdims=True, initial=0)
    share = channel / np.where(strongest > 0, strongest, 1)
    meant = MEANING + MEANING_ALONE / (1 + strongest)
    counts = np.maximum(np.bincount(roots, minlength=len(taxonomy)), 1)
    means = np.stack([np.bincount(roots, row, len(counts)) for row in nearness]) / counts
    logits = OWN_WORDS * np.sqrt(own) + np.sqrt(channel) * (CHANNEL_WORDS + SHARE_OF_WORDS * share) + SHARE * share
    logits += meant * nearness + CHANNEL_MEANING * means[:, roots] + CHANNEL_ITSELF * (taxonomy.depth == 1)
    lacking = max(0, FITTED_TAGS - len(taxonomy)) * np.exp((meant * DEVIATION * said) ** 2 / 2)
    most = np.maximum(logits.max(axis=1, keepdims=True), NONE)
    weights = np.exp(logits - most)
    return np.asarray(weights / (weights.sum(axis=1, keepdims=True) + (np.exp(NONE) + lacking) * np.exp(-most)))
