"""The fast tagger: fastText (Joulin et al., 2017), one-vs-all, on characters, wordings, author and channel."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix
from typing_extensions import TypedDict

from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.core.files import write_json
from weibotag.core.own_files import read_json
from weibotag.core.text_matching import CODES, LINE_BREAK, edge_kinds, spell_out
from weibotag.features.hashed_ngrams import MOST_OCR_CHARACTERS
from weibotag.scoring.closure import FLOOR
from weibotag.taggers.fasttext_file import ORIGIN, check_fasttext
from weibotag.taxonomy.tree import Taxonomy

NETWORK, ABOUT = "fasttext.bin", "fasttext.json"
LABEL = "__label__"
BLANK = ord(" ")
SEED = 1


class FastAbout(TypedDict):
    """fasttext.json: see `Settings`."""

    spacing: Literal["characters", "words"]


class DivergedError(RequestError):
    """Training with these settings ran away: a lower learning rate is needed."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of fastText, by its own names, `bucket` the number of hashed n-grams; and what a word is.

    `spacing` is "characters", each a word, or "words", where only Chinese, Japanese and Korean characters are and a run of
    Latin letters and digits stays whole.
    """

    lr: float = 0.5
    epoch: int = 25
    dim: int = 64
    wordNgrams: int = 3
    bucket: int = 200_000
    spacing: str = "characters"


def write_documents(table: pa.Table, spacing: str = "characters") -> list[str]:
    """Return a line for fastText per post: the words of the text, of the OCR lines, codes, author and channel.

    `table` has text, author, channel and, where pictures were looked at, wordings.
    """
    lines = space_out(table["text"].to_pylist(), spacing)
    for name, mark in (("author", "a_"), ("channel", "c_")):
        for row, value in enumerate(table[name].to_pylist()):
            if value:
                lines[row] += f" {mark}{'_'.join(value.split())}"
    if "wordings" in table.column_names:
        wordings = table["wordings"].combine_chunks()
        offsets, values = list_parts(wordings)
        words, kinds = values.field("word").to_pylist(), values.field("kind").to_pylist()
        for row in np.flatnonzero(np.diff(offsets)).tolist():
            low, high = offsets[row], offsets[row + 1]
            lines[row] += _spell_wordings(words[low:high], kinds[low:high], spacing)
    return lines


def space_out(texts: Sequence[str], spacing: str = "characters") -> list[str]:
    """Return the texts with a blank after each word (see `Settings`), their line breaks made blanks."""
    if not texts:
        return []
    codes = spell_out("\n".join(texts)).copy()
    codes[codes == LINE_BREAK] = BLANK
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)[:-1] - 1
    codes[ends] = LINE_BREAK
    if spacing == "characters":
        spaced = np.full(2 * len(codes), BLANK, np.uint32)
        spaced[::2] = codes
    else:
        inside = edge_kinds(codes) > 0
        places = np.arange(len(codes))
        places[1:] += np.cumsum(~(inside[:-1] & inside[1:]))
        spaced = np.full(places[-1] + 1 if len(places) else 0, BLANK, np.uint32)
        spaced[places] = codes
    return spaced.tobytes().decode(CODES, "surrogatepass").split("\n")


def _spell_wordings(words: Sequence[str], kinds: Sequence[str], spacing: str) -> str:
    """Return the wordings of one post as words of fastText: print spaced as text is, all else whole."""
    lines = [word for word, kind in zip(words, kinds, strict=True) if kind == "ocr"]
    print_ = "".join(space_out([" ".join(lines)[:MOST_OCR_CHARACTERS]], spacing)) if lines else ""
    others = [
        word if kind == "code" else f"{kind}_{'_'.join(word.split())}"
        for word, kind in zip(words, kinds, strict=True)
        if kind != "ocr"
    ]
    read = f" | {print_}" if print_ else ""
    return read + (" " + " ".join(others) if others else "")


def train(lines: Sequence[str], gold: csr_matrix, settings: Settings, threads: int = 1, seed: int = SEED) -> Any:
    """Return a fastText model of lines and their gold tags (posts x tags, ancestors included).

    With one thread the same input and seed give the same model. Raises DivergedError where training breaks down.
    """
    import fasttext

    numbers = {name: value for name, value in asdict(settings).items() if name != "spacing"}
    with tempfile.TemporaryDirectory(prefix="weibotag-") as folder:
        path = Path(folder) / "train.txt"
        with path.open("w", encoding="utf-8", errors="replace") as file:
            for row, line in enumerate(lines):
                tags = gold.indices[gold.indptr[row] : gold.indptr[row + 1]]
                if len(tags):
                    file.write(" ".join(f"{LABEL}{tag}" for tag in tags.tolist()) + f" {line}\n")
        if path.stat().st_size == 0:
            raise RequestError("no post to train on has a tag of the taxonomy; see the tags with: weibotag taxonomy show")
        try:
            return fasttext.train_supervised(
                str(path), loss="ova", minCount=1, thread=threads, seed=seed, verbose=0, **numbers
            )
        except RuntimeError as error:
            raise DivergedError(f"fastText could not train with {settings}: {error}") from error


class FastScorer:
    """A trained fastText model; `spacing` is that of its settings."""

    def __init__(self, taxonomy: Taxonomy, network: Any, spacing: str = "characters") -> None:
        self.taxonomy = taxonomy
        self.spacing = spacing
        self._network = network
        self._numbers = {label: int(label.removeprefix(LABEL)) for label in network.get_labels()}

    def score_lines(self, lines: Sequence[str]) -> csr_matrix:
        """Return scores of prepared lines: float32 csr_matrix (posts x tags), those above 0.01."""
        labels, scores = self._network.f.multilinePredict([line + "\n" for line in lines], -1, FLOOR, "strict")
        lengths = np.fromiter(map(len, labels), np.int64, len(labels))
        numbers = self._numbers
        tags = np.fromiter(map(numbers.__getitem__, chain.from_iterable(labels)), np.int32, int(lengths.sum()))
        data = np.minimum(np.concatenate([np.empty(0, np.float32), *scores]), 1.0)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return csr_matrix((data, tags, indptr), shape=(len(lines), len(self.taxonomy)))

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return scores of posts, float32 csr_matrix (posts x tags), those above 0.01; for `table` see `Scorer`."""
        return self.score_lines(write_documents(table, self.spacing))

    def save(self, folder: Path) -> None:
        """Write fastText's binary model, and what a word is."""
        self._network.save_model(str(folder / NETWORK))
        write_json({"spacing": self.spacing}, folder / ABOUT)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> "FastScorer":
        """Read what `save` wrote; raises OwnFileError when it is no fastText model, or of another taxonomy."""
        import fasttext

        spacing = read_json(folder / ABOUT, FastAbout, ORIGIN)["spacing"]
        check_fasttext(folder / NETWORK, len(taxonomy))
        try:
            return cls(taxonomy, fasttext.load_model(str(folder / NETWORK)), spacing)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise ORIGIN.fault(folder / NETWORK, error) from error
