"""Words that posts mention: those of the taxonomy and of earlier posts, in texts and in what pictures say."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import first_of_each, list_parts, rank_in_runs
from weibotag.core.schema import EVIDENCE
from weibotag.core.text_matching import Matcher, fold
from weibotag.taxonomy.tree import Taxonomy

# How far a word can be trusted to be a keyword of a post that mentions it, before labelled posts say more.
NAME_TRUST, WORD_TRUST = 0.6, 0.4
SOURCES = ("text", "ocr", "object", "face", "clip")
EVIDENCE_PER_TAG = 3


@dataclass(frozen=True)
class Mentions:
    """Words found in a table, int64 columns ordered by post: post, number of the word, number of its source in `SOURCES`,
    and the place of the wording among all wordings of the table (-1 in texts).
    """

    posts: np.ndarray
    words: np.ndarray
    sources: np.ndarray
    wordings: np.ndarray


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
        self._matcher = Matcher(list(trust))
        pairs = [(self.numbers[word], tag) for word, tags in owners.items() if word for tag in sorted(tags)]
        rows, tags = np.array(pairs, np.int64).reshape(-1, 2).T
        self.owners = csr_matrix((np.ones(len(rows), bool), (rows, tags)), shape=(len(self.words), len(taxonomy)))

    def extend(self, learnt: pa.Table) -> "Vocabulary":
        """Return the taxonomy's vocabulary with learnt words (columns keyword, score) added."""
        return Vocabulary(self._taxonomy, learnt)

    def find(self, table: pa.Table) -> Mentions:
        """Return what the texts and wordings of a posts table mention."""
        posts, words = self._matcher.find_all(table["text"].to_pylist())
        nowhere = np.full(len(posts), -1)
        sources = np.zeros(len(posts), np.int64)
        if "wordings" not in table.column_names:
            return Mentions(posts, words, sources, nowhere)
        offsets, values = list_parts(table["wordings"].combine_chunks())
        owner = np.repeat(np.arange(len(table)), np.diff(offsets))
        kinds = pc.index_in(values.field("kind"), pa.array(SOURCES)).fill_null(-1).to_numpy(zero_copy_only=False)
        # Visual codes are words for a classifier, not for people.
        spoken = np.flatnonzero(kinds >= 0)
        spelled = values.field("word").take(pa.array(spoken)).to_pylist()
        said, said_words = self._matcher.find_all(spelled)
        # Print is text; what pictures say otherwise names one thing, and is that word or none.
        whole = np.fromiter((self.numbers.get(fold(word).strip(), -1) for word in spelled), np.int64, len(spelled))
        meant = (kinds[spoken[said]] == SOURCES.index("ocr")) | (whole[said] == said_words)
        said, said_words = said[meant], said_words[meant]
        places = spoken[said]
        posts = np.concatenate([posts, owner[places]])
        order = np.argsort(posts, kind="stable")
        columns = (words, said_words), (sources, kinds[places].astype(np.int64)), (nowhere, places)
        return Mentions(posts[order], *(np.concatenate(parts)[order] for parts in columns))

    def evidence(self, table: pa.Table, mentions: Mentions, chosen: csr_matrix) -> pa.Array:
        """Return list<EVIDENCE> per post: for each chosen tag up to three of its words that the post mentions."""
        lengths = np.diff(self.owners.indptr)[mentions.words]
        at = np.repeat(np.arange(len(mentions.words)), lengths)
        first = np.repeat(self.owners.indptr[mentions.words] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        tags = self.owners.indices[first + np.arange(len(at))].astype(np.int64) if len(at) else at
        total = chosen.shape[1]
        keys = mentions.posts[at] * total + tags
        chosen.sort_indices()
        wanted = np.repeat(np.arange(chosen.shape[0]), np.diff(chosen.indptr)) * total + chosen.indices
        spot = np.searchsorted(wanted, keys)
        known = wanted[np.minimum(spot, len(wanted) - 1)] == keys if len(wanted) else np.zeros(len(keys), bool)
        at, tags, keys, weight = at[known], tags[known], keys[known], chosen.data[spot[known]]
        # Best tags first, then the surest words; the same word in two places counts once.
        order = np.lexsort((at, -self.trust[mentions.words[at]], tags, -weight, mentions.posts[at]))
        at, tags, keys = at[order], tags[order], keys[order]
        fresh = first_of_each(keys * len(self.words) + mentions.words[at])
        at, tags, keys = at[fresh], tags[fresh], keys[fresh]
        few = rank_in_runs(keys) < EVIDENCE_PER_TAG
        at, tags = at[few], tags[few]
        return self._list_evidence(table, mentions, at, tags)

    def _list_evidence(self, table: pa.Table, mentions: Mentions, at: np.ndarray, tags: np.ndarray) -> pa.Array:
        if "wordings" in table.column_names:
            _, values = list_parts(table["wordings"].combine_chunks())
            places = mentions.wordings[at]
            taken = values.take(pa.array(places, mask=places < 0))
            media, box = taken.field("media_id"), taken.field("box")
        else:
            media, box = pa.nulls(len(at), pa.string()), pa.nulls(len(at), EVIDENCE.field("box").type)
        fields = [
            self._taxonomy.id_array.take(pa.array(tags)),
            pa.array(SOURCES).take(pa.array(mentions.sources[at])),
            pa.array(self.words[mentions.words[at]], pa.string()),
            media,
            box,
        ]
        offsets = np.searchsorted(mentions.posts[at], np.arange(len(table) + 1))
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(fields, fields=list(EVIDENCE))
        )
