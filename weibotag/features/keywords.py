"""The keywords of a post, each with a score and its source; and what labelled posts teach about them."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts, rank_in_runs
from weibotag.core.schema import KEYWORD
from weibotag.core.text_matching import fold
from weibotag.features.lines import SOURCES, find_marks
from weibotag.features.vocabulary import Mentions, Vocabulary

# What a mention counts by its source, in the order of SOURCES.
PLACES = np.array([1.0, 0.8, 0.8, 0.9, 0.3])
LEAST_SCORE = 0.2
MOST_KEYWORDS = 20
# A word is learnt as if three more posts had mentioned it, half of them with it as a keyword.
PRIOR_POSTS, PRIOR_TRUST = 3.0, 0.5
LENGTHS = range(2, 21)
# What a name counts that a text marks as one.
MARKED_TRUST = 0.6
LEARNT = pa.schema([("keyword", pa.string()), ("score", pa.float32())])


def find_keywords(table: pa.Table, vocabulary: Vocabulary, mentions: Mentions) -> pa.Array:
    """Return list<KEYWORD> per post, highest score first, twenty at most.

    A word's score is the noisy-or of its mentions: its trust, less for print in pictures than for text.
    """
    words, lines = vocabulary.words, mentions.lines
    read = np.flatnonzero(~lines.named)
    places, marked_words = find_marked([lines.texts[place] for place in read.tolist()], vocabulary)
    marked_posts, marked_sources = lines.posts[read[places]], lines.sources[read[places]]
    fresh = {word: number for number, word in enumerate(dict.fromkeys(marked_words), start=len(words))}
    posts = np.concatenate([mentions.posts, marked_posts])
    numbers = np.concatenate([mentions.words, np.array([fresh[word] for word in marked_words], np.int64)])
    names = np.concatenate([words, np.array(list(fresh), dtype=object)])
    sources = np.concatenate([mentions.sources, marked_sources])
    trust = np.concatenate([vocabulary.trust[mentions.words], np.full(len(marked_words), MARKED_TRUST)]) * PLACES[sources]

    keys = posts * len(names) + numbers
    order = np.lexsort((-trust, keys))
    keys, doubt, sources = keys[order], np.log1p(-np.minimum(trust[order], 0.99)), sources[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    scores = -np.expm1(np.add.reduceat(doubt, starts)) if len(starts) else doubt
    keys, sources = keys[starts], sources[starts]
    posts, numbers = keys // len(names), keys % len(names)
    kept = np.flatnonzero(scores >= LEAST_SCORE)
    kept = kept[np.lexsort((numbers[kept], -scores[kept], posts[kept]))]
    kept = kept[rank_in_runs(posts[kept]) < MOST_KEYWORDS]
    fields = [
        pa.array(names[numbers[kept]], pa.string()),
        pa.array(scores[kept], pa.float32()),
        pa.array(SOURCES).take(pa.array(sources[kept])),
    ]
    offsets = pa.array(np.searchsorted(posts[kept], np.arange(len(table) + 1)), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(KEYWORD)))


def find_marked(texts: Sequence[str], vocabulary: Vocabulary) -> tuple[np.ndarray, list[str]]:
    """Return places in `texts` and names that these mark and the vocabulary does not know, ordered by place."""
    found = [
        (row, word) for row, word in find_marks(texts) if len(word) >= LENGTHS.start and fold(word) not in vocabulary.numbers
    ]
    return np.array([row for row, _ in found], np.int64), [word for _, word in found]


def learn_keywords(tables: Sequence[pa.Table], vocabulary: Vocabulary) -> pa.Table:
    """Return (keyword, score) learnt from posts with keywords given by hand: those words, and how often a mention is one.

    `vocabulary` is that of the taxonomy; its own words get a learnt trust too once labelled posts mention them.
    """
    spelled: dict[str, str] = {}
    for table in tables:
        for word in pc.unique(pc.list_flatten(table["keywords"])).to_pylist():
            if word and len(word.strip()) in LENGTHS and "\n" not in word:
                spelled.setdefault(fold(word).strip(), word.strip())
    spelled.pop("", None)
    known = pa.table({"keyword": list(spelled.values()), "score": [PRIOR_TRUST] * len(spelled)}, schema=LEARNT)
    if not spelled:
        return known
    both = vocabulary.extend(known)
    mentioned = np.zeros(len(both.words))
    meant = np.zeros(len(both.words))
    for table in tables:
        labelled = table.filter(pc.is_valid(table["keywords"]))
        mentions = both.find(labelled.select(["text"]))
        pairs = np.unique(mentions.posts * len(both.words) + mentions.words)
        np.add.at(mentioned, pairs % len(both.words), 1)
        offsets, given = list_parts(labelled["keywords"].combine_chunks())
        owner = np.repeat(np.arange(len(labelled)), np.diff(offsets))
        numbers = [both.numbers.get(fold(word).strip(), 0) for word in given.to_pylist()]
        gold = np.unique(owner * len(both.words) + np.array(numbers, np.int64))
        np.add.at(meant, np.intersect1d(pairs, gold) % len(both.words), 1)
    score = (meant + PRIOR_POSTS * np.where(both.trust > 0, both.trust, PRIOR_TRUST)) / (mentioned + PRIOR_POSTS)
    learnt = [number for number in range(1, len(both.words)) if mentioned[number] or fold(both.words[number]) in spelled]
    return pa.table({"keyword": [both.words[number] for number in learnt], "score": score[learnt]}, schema=LEARNT)
