"""Words that posts mention: those of the taxonomy and of earlier posts, in texts and in what pictures say."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.arrays import first_of_each, list_parts, rank_in_runs
from weibotag.core.schema import EVIDENCE
from weibotag.core.text_matching import fold
from weibotag.features.lines import SOURCES, Lines, WordFinder, list_lines
from weibotag.taxonomy.tree import Taxonomy

# How far a word can be trusted to be a keyword of a post that mentions it, before labelled posts say more.
NAME_TRUST, WORD_TRUST = 0.6, 0.4
EVIDENCE_PER_TAG = 3


@dataclass(frozen=True)
class Mentions:
    """Words found in lines, int64 columns ordered by post: the post, the place in `lines`, the number of the word."""

    lines: Lines
    posts: np.ndarray
    places: np.ndarray
    words: np.ndarray

    @property
    def sources(self) -> np.ndarray:
        """Return the number in `SOURCES` of where each stands, int64."""
        return np.take(self.lines.sources, self.places)


class Vocabulary:
    """All words that are looked for, each with its trust (0 to 1) as a keyword and the tags that own it.

    `words` (object array) are spelled as they were given, number 0 is none; `owners` is a bool csr_matrix (words x tags).
    """

    def __init__(self, taxonomy: Taxonomy, learnt: pa.Table | None = None) -> None:
        self._taxonomy = taxonomy
        trust: dict[str, float] = {}
        spelled: dict[str, str] = {}
        owners: dict[str, set[int]] = {}
        for number, tag in enumerate(taxonomy.tags):
            for words, kind_trust in (((tag.name, *tag.aliases), NAME_TRUST), (tag.keywords, WORD_TRUST)):
                for word in words:
                    folded = fold(word).strip()
                    trust[folded] = max(trust.get(folded, 0.0), kind_trust)
                    spelled.setdefault(folded, word.strip())
                    owners.setdefault(folded, set()).add(number)
        if learnt is not None:
            for word, score in zip(learnt["keyword"].to_pylist(), learnt["score"].to_pylist(), strict=True):
                trust[fold(word)] = score
                spelled.setdefault(fold(word), word)
        trust.pop("", None)
        self.words = np.array(["", *(spelled[word] for word in trust)], dtype=object)
        self.trust = np.array([0.0, *trust.values()])
        self.numbers = {word: number for number, word in enumerate(trust, start=1)}
        self._finder = WordFinder(list(trust), shortest=1)
        pairs = [(self.numbers[word], tag) for word, tags in owners.items() if word for tag in sorted(tags)]
        rows, tags = np.array(pairs, np.int64).reshape(-1, 2).T
        self.owners = csr_matrix((np.ones(len(rows), bool), (rows, tags)), shape=(len(self.words), len(taxonomy)))

    def extend(self, learnt: pa.Table) -> "Vocabulary":
        """Return the taxonomy's vocabulary with learnt words (columns keyword, score) added."""
        return Vocabulary(self._taxonomy, learnt)

    def find(self, table: pa.Table) -> Mentions:
        """Return what the texts and wordings of a posts table mention."""
        lines = list_lines(table)
        places, words = self._finder.find(lines)
        return Mentions(lines, lines.posts[places], places, words + 1)

    def evidence(self, table: pa.Table, mentions: Mentions, chosen: csr_matrix) -> pa.Array:
        """Return list<EVIDENCE> per post: for each chosen tag up to three of its words that the post mentions."""
        owned = self.owners[mentions.words]
        at, tags = np.repeat(np.arange(len(mentions.words)), np.diff(owned.indptr)), owned.indices.astype(np.int64)
        weight = np.asarray(chosen[mentions.posts[at], tags]).ravel() if len(at) else np.empty(0)
        at, tags, weight = at[weight > 0], tags[weight > 0], weight[weight > 0]
        keys = mentions.posts[at] * chosen.shape[1] + tags
        # Best tags first, then the surest words; the same word in two places counts once.
        order = np.lexsort((at, -self.trust[mentions.words[at]], tags, -weight, mentions.posts[at]))
        at, tags, keys = at[order], tags[order], keys[order]
        fresh = first_of_each(keys * len(self.words) + mentions.words[at])
        at, tags, keys = at[fresh], tags[fresh], keys[fresh]
        few = rank_in_runs(keys) < EVIDENCE_PER_TAG
        return self._list_evidence(table, mentions, at[few], tags[few])

    def _list_evidence(self, table: pa.Table, mentions: Mentions, at: np.ndarray, tags: np.ndarray) -> pa.Array:
        media, box = pa.nulls(len(at), pa.string()), pa.nulls(len(at), EVIDENCE.field("box").type)
        if "wordings" in table.column_names:
            _, values = list_parts(table["wordings"].combine_chunks())
            places = mentions.lines.wordings[mentions.places[at]]
            taken = values.take(pa.array(places, mask=places < 0))
            media, box = taken.field("media_id"), taken.field("box")
        fields = [
            self._taxonomy.id_array.take(pa.array(tags)),
            pa.array(SOURCES).take(pa.array(mentions.sources[at])),
            pa.array(self.words[mentions.words[at]], pa.string()),
            media,
            box,
        ]
        offsets = pa.array(np.searchsorted(mentions.posts[at], np.arange(len(table) + 1)), pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(EVIDENCE)))
