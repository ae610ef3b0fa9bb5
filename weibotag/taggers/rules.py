"""The tagger that needs no training: names, aliases and keywords of the taxonomy, found in text and wordings."""

import re
from collections.abc import Iterator, Sequence
from math import log
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import rows_of
from weibotag.core.kinds import KINDS
from weibotag.core.text_matching import Matcher, drop_cut_out, edge_kind, fold
from weibotag.features.plain_text import hide_mentions
from weibotag.features.tag_meanings import open_meanings
from weibotag.features.text_vectors import open_encoder
from weibotag.features.thing_tags import match_things, thing_key
from weibotag.scoring.decision import Decision
from weibotag.taggers import rules_meaning
from weibotag.taggers.rules_meaning import Meaning, settle
from weibotag.taggers.tagger import Ensemble, Tagger
from weibotag.taxonomy.tree import Taxonomy

# Every constant of the tagger. A match gives evidence in units of -ln(1 - p), so that evidence adds up as a noisy-or:
# score = 1 - exp(-evidence). Tried on labelled Weibo posts of three channels, a channel's score of 0.5 to 0.6 was
# right in six cases of ten, one of 0.9 and more in nine.
# Scores are shares of right answers; micro-F1 is best at about half of what it reaches there (Lipton et al., 2014).
THRESHOLD = 0.3
# How far one match of a word of full length can be trusted alone: people write keywords about other things too.
TRUST = {"name": 0.55, "alias": 0.5, "keyword": 0.42, "kind": 0.5}
# Short words stand inside others and have several senses: factors for a width of up to 1, 2, 3, and more characters,
# where a Chinese character is 1 wide and a letter or digit a half (nba is as wide as a word of two characters).
WIDTH_FACTORS = (0.25, 0.8, 1.1, 1.3)
# A word of k tags gives each of them 1/k^SHARING: it says that one of them is meant, not which.
SHARING = 0.8
# What a match counts by its place. A hashtag that is one whole word of the taxonomy was meant as a tag.
TEXT, LEAD, HASHTAG, AUTHOR = 1.0, 1.3, 4.0, 0.5
# A post published in a channel is about it, whatever its words.
CHANNEL_EVIDENCE = 4.0
# What a tag's evidence counts for its parent; below 1 because small hits in many tags may be about something else.
UPWARDS = 0.9
# A tag whose channel has a share r of the strongest channel's evidence keeps r^RIVALRY: 苹果 among phones is no fruit.
RIVALRY = 1.5
# Posts whose words are so sure of a channel are not asked what they mean.
SURE = 0.95
# A title says what the post is about; a first sentence longer than this is no title.
LEAD_CHARACTERS = 40

SENTENCE_END = re.compile("[。！？!?\n】]")


# A match: the row of its post, the number of its word, what it counts by its place.
Hit = tuple[int, int, float]


class RulesScorer:
    """Scores posts by the words of a taxonomy that stand in them and, where `meaning` is there, by what they mean."""

    def __init__(self, taxonomy: Taxonomy, meaning: Meaning | None = None) -> None:
        self.taxonomy = taxonomy
        self._meaning = meaning
        owners = _collect_owners(taxonomy)
        self._matcher = Matcher(list(owners))
        # Words of texts are numbered from 1, what is seen after them.
        things = match_things(taxonomy)
        self._seen = {key: place + len(owners) + 1 for key, place in things.places.items()}
        self._upwards = _damp_upwards(taxonomy)
        words = [(_find_factor(word), tags) for word, tags in owners.items()]
        words += [(1.0, {tag: TRUST[by] for tag, by in tags.items()}) for tags in things.tags]
        self._weights = _weigh(words, len(taxonomy))
        self._channels = _index_channels(taxonomy)
        self._roots = np.arange(len(taxonomy))
        for _ in range(int(taxonomy.depth.max(initial=1)) - 1):
            up = taxonomy.parents[self._roots]
            self._roots = np.where(up >= 0, up, self._roots)

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Score posts: float32 csr_matrix (posts x tags), 0 to 1, a child never above its parent; see `Scorer`."""
        hits = np.array(list(self._find(table)), dtype=np.float64).reshape(-1, 3)
        posts = len(table)
        at = hits[:, :2].astype(np.int64)
        found = csr_matrix((hits[:, 2], (at[:, 0], at[:, 1])), shape=(posts, self._weights.shape[0]))
        found.sum_duplicates()
        # The second and third time a word stands in a post say less than the first.
        found.data = np.log2(1 + found.data)
        own = csr_matrix(found @ self._weights)
        rows, tags = self._find_channels(table)
        if rows:
            given = csr_matrix((np.full(len(rows), CHANNEL_EVIDENCE), (rows, tags)), shape=(posts, len(self.taxonomy)))
            own = csr_matrix(own + given)
        evidence = csr_matrix(own @ self._upwards)
        words = self._settle(evidence)
        if self._meaning is None:
            return words
        asked = words.max(axis=1).toarray().ravel() < SURE
        meaning = self._meaning.compare(table.filter(pa.array(asked)))
        settled = settle(own[asked], evidence[asked], words[asked], meaning, self.taxonomy, self._roots)
        places = np.where(asked, posts + np.cumsum(asked) - 1, np.arange(posts))
        return csr_matrix(vstack([words, settled], format="csr")[places])

    def save(self, folder: Path) -> None:
        """Write nothing: all that it knows is in the taxonomy."""

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> "RulesScorer":
        """Return the scorer of a taxonomy."""
        return cls(taxonomy)

    def _find(self, table: pa.Table) -> Iterator[Hit]:
        for row, text in enumerate(hide_mentions(table["text"].to_pylist())):
            if text:
                yield from self._find_in_text(row, text)
        for row, author in enumerate(table["author"].to_pylist()):
            if author:
                for word, _, _ in self._matcher.find(fold(author)):
                    yield row, word, AUTHOR
        if "wordings" not in table.column_names:
            return
        column = table["wordings"].combine_chunks()
        rows, values = pc.list_parent_indices(column).to_pylist(), pc.list_flatten(column)
        fields = (pc.struct_field(values, name).to_pylist() for name in ("word", "kind", "score", "media_id"))
        seen: set[tuple[int, int, str | None]] = set()
        for row, said, name, score, picture in zip(rows, *fields, strict=True):
            kind = KINDS.get(name)
            if kind is None or not said:
                continue
            weight = kind.evidence * (1.0 if score is None else score)
            if kind.thing:
                # One picture says it in two languages, and every box again.
                number = self._seen.get(thing_key(said))
                if number is not None and (row, number, picture) not in seen:
                    seen.add((row, number, picture))
                    yield row, number, weight
            else:
                written = fold(said).strip()
                for word, start, end in self._matcher.find(written):
                    # Print is text. All else names one thing: a hot dog is no dog, and 王菲菲 is not 王菲.
                    if not kind.whole or end - start == len(written):
                        yield row, word, weight

    def _find_in_text(self, row: int, written: str) -> Iterator[Hit]:
        text = fold(written)
        found = drop_cut_out(text, self._matcher.find(text, written))
        if not found:
            return
        end_of_lead = SENTENCE_END.search(text, 1, LEAD_CHARACTERS)
        lead = end_of_lead.start() if end_of_lead else 0
        last = len(text)
        tagged = "#" in text
        hashes = counted = 0
        for word, start, end in found:
            weight = LEAD if start < lead else TEXT
            if tagged and start and end < last and text[start - 1] == "#" == text[end]:
                hashes, counted = hashes + text.count("#", counted, start), start
                # An even number of # before it means that the # on its left closes another hashtag.
                weight = HASHTAG if hashes % 2 else weight
            yield row, word, weight

    def _find_channels(self, table: pa.Table) -> tuple[list[int], list[int]]:
        """Return rows whose channel is a tag's id, name or alias, and those tags."""
        found = [
            (row, tag)
            for row, channel in enumerate(table["channel"].to_pylist())
            if channel and (tag := self._channels.get(fold(channel).strip())) is not None
        ]
        return [row for row, _ in found], [tag for _, tag in found]

    def _settle(self, evidence: csr_matrix) -> csr_matrix:
        """Turn evidence into scores: channels against each other, noisy-or, no child above its parent."""
        evidence.sort_indices()
        total = len(self.taxonomy)
        posts = evidence.shape[0]
        tags = evidence.indices
        rows = rows_of(evidence.indptr)
        # Keys are sorted, and a tag's evidence reaches all its ancestors, so each lookup below finds its entry.
        keys = rows * total + tags
        channel = evidence.data[np.searchsorted(keys, rows * total + self._roots[tags])]
        strongest = np.zeros(posts)
        np.maximum.at(strongest, rows, channel)
        scores = -np.expm1(-evidence.data * (channel / strongest[rows]) ** RIVALRY)
        depth = self.taxonomy.depth[tags]
        for level in range(2, int(depth.max(initial=1)) + 1):
            here = np.flatnonzero(depth == level)
            parents = np.searchsorted(keys, rows[here] * total + self.taxonomy.parents[tags[here]])
            scores[here] = np.minimum(scores[here], scores[parents])
        return csr_matrix((scores.astype(np.float32), tags, evidence.indptr), shape=evidence.shape)


def _collect_owners(taxonomy: Taxonomy) -> dict[str, dict[int, float]]:
    """Return, per folded word, its tags with how far each is trusted; a name is nobody else's keyword."""
    owners: dict[str, dict[int, float]] = {}
    for number, tag in enumerate(taxonomy.tags):
        for kind, words in (("name", (tag.name,)), ("alias", tag.aliases), ("keyword", tag.keywords)):
            for word in words:
                owners.setdefault(fold(word).strip(), {}).setdefault(number, TRUST[kind])
    owners.pop("", None)
    for under in owners.values():
        if len(under) > 1 and max(under.values()) == TRUST["name"]:
            for number in [number for number, trust in under.items() if trust == TRUST["keyword"]]:
                del under[number]
    return owners


def _find_factor(word: str) -> float:
    """Return what a word in a text counts by its width."""
    width = sum(0.5 if edge_kind(char) else 1.0 for char in word)
    return WIDTH_FACTORS[min(int(np.ceil(width)), len(WIDTH_FACTORS)) - 1]


def _weigh(words: Sequence[tuple[float, dict[int, float]]], total: int) -> csr_matrix:
    """Return what each word, given as its factor and its tags, says for each tag (words + 1 x tags).

    Row 0 is the matcher's guard and says nothing.
    """
    rows, tags, weights = [], [], []
    for number, (factor, under) in enumerate(words, start=1):
        for tag, trust in under.items():
            rows.append(number)
            tags.append(tag)
            weights.append(-log(1 - trust) * factor / len(under) ** SHARING)
    return csr_matrix((weights, (rows, tags)), shape=(len(words) + 1, total))


def _damp_upwards(taxonomy: Taxonomy) -> csr_matrix:
    """Return what a tag's evidence counts for itself and its ancestors (tags x tags)."""
    reach = taxonomy.closure_matrix().tocoo()
    steps = taxonomy.depth[reach.row] - taxonomy.depth[reach.col]
    return csr_matrix((UPWARDS**steps, (reach.row, reach.col)), shape=reach.shape)


def _index_channels(taxonomy: Taxonomy) -> dict[str, int]:
    """Return the tag that a channel's value means: ids before names before aliases, higher levels before lower."""
    order = taxonomy.order.tolist()
    index: dict[str, int] = {}
    for number in order:
        index[fold(taxonomy.ids[number])] = number
    for number in order:
        index.setdefault(fold(taxonomy.tags[number].name), number)
    for number in order:
        for alias in taxonomy.tags[number].aliases:
            index.setdefault(fold(alias), number)
    return index


def rules_tagger(taxonomy: Taxonomy, meanings: Path | None = None) -> Tagger:
    """Return the tagger that needs no training: by words, and by meaning where `meanings` is the folder that keeps what tags
    mean and an encoder is installed.
    """
    encode = None if meanings is None else open_encoder()
    tags = None if meanings is None or encode is None else open_meanings(taxonomy, encode, meanings)
    meaning = None if tags is None or encode is None else Meaning(tags, encode)
    threshold = THRESHOLD if meaning is None else rules_meaning.THRESHOLD
    return Tagger(Ensemble.alone("rules", RulesScorer(taxonomy, meaning)), Decision.fixed(taxonomy, threshold))
