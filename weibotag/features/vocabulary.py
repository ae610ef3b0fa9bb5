"""What posts say, line by line, and the words that they mention in it: keywords, and evidence for tags."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import first_of_each, list_parts, rank_in_runs, rows_of
from weibotag.core.kinds import KINDS
from weibotag.core.schema import EVIDENCE, KEYWORD
from weibotag.core.text_matching import Matcher, fold
from weibotag.features.plain_text import hide_mentions
from weibotag.features.thing_tags import match_things, thing_key
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.stage import Row

# How far a word can be trusted to be a keyword of a post that mentions it, before labelled posts say more.
NAME_TRUST, WORD_TRUST = 0.6, 0.4
EVIDENCE_PER_TAG = 3
LEAST_SCORE = 0.2
MOST_KEYWORDS = 20
# A word is learnt as if three more posts had mentioned it, half of them with it as a keyword.
PRIOR_POSTS, PRIOR_TRUST = 3.0, 0.5
LENGTHS = range(2, 21)
# What a name counts that a text marks as one.
MARKED_TRUST = 0.6
LEARNT = pa.schema([("keyword", pa.string()), ("score", pa.float32())])
# What a wording must get to be named: of all attention of its post, and of what the wording got that got most.
LEAST_SHARE, LEAST_BESIDE = 0.1, 0.5
# Of a wording, what evidence has of it.
FOUND = ("kind", "word", "media_id", "box")
SOURCES = ("text", *KINDS)
# By source: what a mention counts, whether a line is one name and not read for words, whether it names a thing.
PLACES = np.array([1.0, *(kind.trust for kind in KINDS.values())])
NAMED = np.array([False, *(kind.whole for kind in KINDS.values())])
THINGS = np.array([False, *(kind.thing for kind in KINDS.values())])
# What a text itself marks as a name: 《title》, #hashtag#.
# No hashtags: C#和F#, No.#1 和 No.#2, 颜色#fff和#000.
TOPIC = r"(?![A-Za-z0-9])[^#\n，。！？；]{1,30}(?=#)|[A-Za-z0-9][^#\n，。！？；]{0,29}(?=#(?![A-Za-z0-9]))"
MARKED = re.compile(rf"《([^《》\n]{{1,30}})》|(?<![A-Za-z0-9.])#({TOPIC})#")


@dataclass(frozen=True)
class Lines:
    """Lines ordered by post, with int64 columns: the post (row in a table, or number among all), the source (number in
    `SOURCES`), and the place of the wording among all wordings of the table (-1 in texts).
    """

    texts: list[str]
    posts: np.ndarray
    sources: np.ndarray
    wordings: np.ndarray

    @property
    def named(self) -> np.ndarray:
        """Return a bool per line: whether it is one name."""
        return np.asarray(NAMED[self.sources])


def list_lines(table: pa.Table, guesses: bool = False) -> Lines:
    """Return what the posts of a table say.

    That is its column text without whom it mentions, and of `wordings` all but visual codes, which are no words, and, unless
    they are asked for, `guesses`, which are no keywords.
    """
    said = hide_mentions(table["text"].to_pylist())
    posts, sources, nowhere = np.arange(len(table)), np.zeros(len(table), np.int64), np.full(len(table), -1)
    if "wordings" not in table.column_names:
        return Lines(said, posts, sources, nowhere)
    offsets, values = list_parts(table["wordings"].combine_chunks())
    kinds = pc.index_in(values.field("kind"), pa.array(SOURCES)).fill_null(-1).to_numpy(zero_copy_only=False)
    spoken = np.flatnonzero((kinds >= 0) & (guesses | (PLACES[kinds] > 0)))
    posts = np.concatenate([posts, np.repeat(posts, np.diff(offsets))[spoken]])
    order = np.argsort(posts, kind="stable")
    words = values.field("word").take(pa.array(spoken)).cast(pa.string()).fill_null("")
    texts = pa.concat_arrays([pa.array(said, pa.string()), words]).take(pa.array(order))
    sources = np.concatenate([sources, kinds[spoken].astype(np.int64)])
    return Lines(texts.to_pylist(), posts[order], sources[order], np.concatenate([nowhere, spoken])[order])


class WordFinder:
    """Words (folded, distinct) that are looked for in lines: within texts and print, as the whole of a name.

    A word of fewer than `shortest` characters is looked for in names only.
    """

    def __init__(self, words: Sequence[str], shortest: int = 2) -> None:
        self._long = np.flatnonzero([len(word) >= shortest for word in words])
        self._matcher = Matcher([words[number] for number in self._long.tolist()])
        self._numbers = {word: number for number, word in enumerate(words)}

    def find(self, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
        """Return places in the lines, ascending, and numbers of the words there (int64): the leftmost, then the longest."""
        named, read = np.flatnonzero(lines.named), np.flatnonzero(~lines.named)
        rows, words = self._matcher.find_all(lines.texts if not len(named) else [lines.texts[at] for at in read.tolist()])
        names = (self._numbers.get(fold(lines.texts[at]).strip(), -1) for at in named.tolist())
        whole = np.fromiter(names, np.int64, len(named))
        places = np.concatenate([read[rows], named[whole >= 0]])
        order = np.argsort(places, kind="stable")
        return places[order], np.concatenate([self._long[words - 1], whole[whole >= 0]])[order]


def find_marks(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Give places in `texts` and the names that these mark, ordered by place."""
    for row, text in enumerate(texts):
        # Most texts have no mark, and looking for one is faster than matching.
        if "《" in text or "#" in text:
            for match in MARKED.finditer(text):
                yield row, (match[1] or match[2]).strip()


@dataclass(frozen=True)
class Mentions:
    """Words found in lines, int64 columns ordered by post: the post, the place in `lines`, the number of the word."""

    lines: Lines
    posts: np.ndarray
    places: np.ndarray
    words: np.ndarray


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
        # What is seen is no keyword by itself, and what is called like it may be something else: see `match_things`.
        things = match_things(taxonomy)
        self.first_thing = len(trust) + 1
        self._things = {key: place + self.first_thing for key, place in things.places.items()}
        self.words = np.array(["", *(spelled[word] for word in trust), *things.names], dtype=object)
        self.trust = np.array([0.0, *trust.values(), *([0.0] * len(things.names))])
        self.numbers = {word: number for number, word in enumerate(trust, start=1)}
        self._finder = WordFinder(list(trust), shortest=1)
        pairs = [(self.numbers[word], tag) for word, tags in owners.items() if word for tag in sorted(tags)]
        pairs += [(number, tag) for number, tags in enumerate(things.tags, start=self.first_thing) for tag in tags]
        rows, tags = np.array(pairs, np.int64).reshape(-1, 2).T
        self.owners = csr_matrix((np.ones(len(rows), bool), (rows, tags)), shape=(len(self.words), len(taxonomy)))

    def find(self, table: pa.Table) -> Mentions:
        """Return what the texts and wordings of a posts table mention."""
        lines = list_lines(table, guesses=True)
        places, words = self._finder.find(lines)
        seen = np.flatnonzero(THINGS[lines.sources])
        things = np.array([self._things.get(thing_key(lines.texts[at]), 0) for at in seen.tolist()], np.int64)
        places, words = np.concatenate([places, seen[things > 0]]), np.concatenate([words + 1, things[things > 0]])
        order = np.argsort(places, kind="stable")
        places, words = places[order], words[order]
        return Mentions(lines, lines.posts[places], places, words)

    def evidence(self, table: pa.Table, mentions: Mentions, chosen: csr_matrix) -> pa.Array:
        """Return list<EVIDENCE> per post: for each chosen tag up to three of its words that the post mentions."""
        by_name = THINGS[mentions.lines.sources[mentions.places]] & (mentions.words < self.first_thing)
        owned = self.owners[np.where(by_name, 0, mentions.words)]
        at, tags = rows_of(owned.indptr), owned.indices.astype(np.int64)
        weight = np.asarray(chosen[mentions.posts[at], tags]).ravel() if len(at) else np.empty(0)
        at, tags, weight = at[weight > 0], tags[weight > 0], weight[weight > 0]
        keys = mentions.posts[at] * chosen.shape[1] + tags
        # Best tags first, then the surest words; the same word in two places counts once.
        order = np.lexsort((at, -self.trust[mentions.words[at]], tags, -weight, mentions.posts[at]))
        at, tags, keys = at[order], tags[order], keys[order]
        fresh = first_of_each(keys * len(self.words) + mentions.words[at])
        at, tags, keys = at[fresh], tags[fresh], keys[fresh]
        few = rank_in_runs(keys) < EVIDENCE_PER_TAG
        at, tags = at[few], tags[few]
        media, box = pa.nulls(len(at), pa.string()), pa.nulls(len(at), EVIDENCE.field("box").type)
        if "wordings" in table.column_names:
            _, values = list_parts(table["wordings"].combine_chunks())
            places = mentions.lines.wordings[mentions.places[at]]
            taken = values.take(pa.array(places, mask=places < 0))
            media, box = taken.field("media_id"), taken.field("box")
        fields = [
            self._taxonomy.id_array.take(pa.array(tags)),
            pa.array(SOURCES).take(pa.array(mentions.lines.sources[mentions.places[at]])),
            pa.array(self.words[mentions.words[at]], pa.string()),
            media,
            box,
        ]
        offsets = pa.array(np.searchsorted(mentions.posts[at], np.arange(len(table) + 1)), pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(EVIDENCE)))


def find_keywords(table: pa.Table, vocabulary: Vocabulary, mentions: Mentions) -> pa.Array:
    """Return list<KEYWORD> per post, highest score first, twenty at most.

    A word's score is the noisy-or of its mentions: its trust, less for print in pictures than for text.
    """
    words, lines = vocabulary.words, mentions.lines
    read = np.flatnonzero(~lines.named)
    found = find_marks([lines.texts[place] for place in read.tolist()])
    marked = [(row, word) for row, word in found if len(word) >= LENGTHS.start and fold(word) not in vocabulary.numbers]
    marked_words, places = [word for _, word in marked], read[np.array([row for row, _ in marked], np.int64)]
    fresh = {word: number for number, word in enumerate(dict.fromkeys(marked_words), start=len(words))}
    posts = np.concatenate([mentions.posts, lines.posts[places]])
    numbers = np.concatenate([mentions.words, np.array([fresh[word] for word in marked_words], np.int64)])
    names = np.concatenate([words, np.array(list(fresh), dtype=object)])
    sources = np.concatenate([lines.sources[mentions.places], lines.sources[places]])
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


def learn_keywords(tables: Sequence[pa.Table], taxonomy: Taxonomy) -> pa.Table:
    """Return (keyword, score) learnt from posts with keywords given by hand: those words, and how often a mention is one.

    The taxonomy's own words get a learnt trust too once labelled posts mention them.
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
    both = Vocabulary(taxonomy, known)
    mentioned = np.zeros(len(both.words))
    meant = np.zeros(len(both.words))
    for table in tables:
        labelled = table.filter(pc.is_valid(table["keywords"]))
        mentions = both.find(labelled.select(["text"]))
        pairs = np.unique(mentions.posts * len(both.words) + mentions.words)
        np.add.at(mentioned, pairs % len(both.words), 1)
        offsets, given = list_parts(labelled["keywords"].combine_chunks())
        owner = rows_of(offsets)
        numbers = [both.numbers.get(fold(word).strip(), 0) for word in given.to_pylist()]
        gold = np.unique(owner * len(both.words) + np.array(numbers, np.int64))
        np.add.at(meant, np.intersect1d(pairs, gold) % len(both.words), 1)
    score = (meant + PRIOR_POSTS * np.where(both.trust > 0, both.trust, PRIOR_TRUST)) / (mentioned + PRIOR_POSTS)
    learnt = [number for number in range(1, both.first_thing) if mentioned[number] or fold(both.words[number]) in spelled]
    return pa.table({"keyword": [both.words[number] for number in learnt], "score": score[learnt]}, schema=LEARNT)


def add_attended(
    evidence: pa.Array, table: pa.Table, shares: np.ndarray, chosen: csr_matrix, taxonomy: Taxonomy
) -> pa.Array:
    """Return list<EVIDENCE> per post: for each chosen tag what `evidence` has, then wordings that got most attention.

    `shares` (wordings,) are what each wording of `table` got. Up to three wordings of a post, the same for all of its tags,
    as the network attends once for all of them; one in which a word of a tag was found already is not named for it again.
    Of a picture's visual codes, which say no more than that its look counted, one is named.
    """
    offsets, values = list_parts(table["wordings"].combine_chunks())
    rows = evidence.to_pylist()
    for post, (start, end) in enumerate(pairwise(offsets.tolist())):
        own = shares[start:end]
        most = own.max(initial=0)
        if most < LEAST_SHARE:
            continue
        places = np.argsort(-own, kind="stable")
        named = start + places[own[places] >= max(LEAST_SHARE, LEAST_BESIDE * most)]
        attended: dict[tuple[str, str], Row] = {}
        for one in values.take(pa.array(named)).to_pylist():
            same = one["kind"], one["media_id"] if one["kind"] == "code" else one["word"]
            attended.setdefault(same, {name: one[name] for name in FOUND})
        added = list(attended.values())[:EVIDENCE_PER_TAG]
        before, rows[post] = rows[post], []
        low, high = chosen.indptr[post : post + 2]
        for tag in chosen.indices[low:high][np.lexsort((chosen.indices[low:high], -chosen.data[low:high]))].tolist():
            tag_id = taxonomy.tags[tag].id
            found = [row for row in before if row["tag_id"] == tag_id]
            rows[post] += found + [{"tag_id": tag_id, **one} for one in added if not any(_is_in(row, one) for row in found)]
    return pa.array(rows, evidence.type)


def _is_in(found: Row, wording: Row) -> bool:
    """Tell whether evidence that was found is a word of a wording."""
    same = all(found[name] == wording[name] for name in ("kind", "media_id", "box"))
    return same and fold(found["word"]) in fold(wording["word"])
