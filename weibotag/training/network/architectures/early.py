"""Early fusion: what pictures say is added to the words of the text that name it."""

from torch import Tensor, arange
from torch.nn import functional

from weibotag.training.network.architectures.single_stream import SingleStream


class Early(SingleStream):
    """What a picture shows or prints, with its place, goes to the character of the text that mentions it, before the first
    layer; what is not mentioned stays a token of its own: the architecture of B2T2 (Alberti et al., 2019).
    """

    def read(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each input's tokens and mask; a word or a character of print that moved to the text is masked."""
        parts = super().read(batch)
        pictures, seen = parts["pictures"]
        # A word that stands in no picture gets the zeros in front.
        shown = functional.pad(pictures * seen.unsqueeze(-1), (0, 0, 1, 0))
        words, mask = parts["words"]
        parts["words"] = words + shown.gather(1, batch["word_pictures"].unsqueeze(-1).expand_as(words)), mask
        text, written = parts["text"]
        places = arange(1, text.shape[1] + 1, device=text.device)
        for name, mentions in (("words", batch["word_mentions"]), ("print", batch["print_mentions"])):
            tokens, mask = parts[name]
            moves = (mentions.unsqueeze(2) == places) & written.unsqueeze(1) & mask.unsqueeze(2)
            text = text + moves.to(tokens.dtype).transpose(1, 2) @ tokens
            parts[name] = tokens, mask & ~moves.any(2)
        parts["text"] = text, written
        return parts
