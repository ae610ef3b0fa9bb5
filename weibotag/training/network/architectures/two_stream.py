"""Two transformers, one over what a post says and one over what it shows, that ask each other."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.features.post_batches import MOST_CHARACTERS
from weibotag.training.network.architectures.network import Encoded, Shape, Transformer, join_tokens
from weibotag.training.network.layers import AttentionLayer


class CoAttention(nn.Module):
    """Each of two streams asks the other (keys and values swapped), then itself (ViLBERT, Lu et al., 2019)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.across, self.within = (
            nn.ModuleList([AttentionLayer(width, heads, dropout) for _ in range(2)]) for _ in range(2)
        )

    def forward(self, said: Tensor, shown: Tensor, said_mask: Tensor, shown_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams (n, t, width) after this layer."""
        said, shown = self.across[0](said, shown, shown_mask), self.across[1](shown, said, said_mask)
        return self.within[0](said, said, said_mask), self.within[1](shown, shown, shown_mask)


class TwoStream(Transformer):
    """Text, print and names in one stream, words with boxes and pictures in the other: the architecture of ViLBERT (Lu et
    al., 2019), with the layer of LXMERT (Tan and Bansal, 2019) that relates objects to each other first.
    """

    SAID = ("post", "text", "print", "names")

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        # A stream without any token would give padding to whoever asks it.
        self.scene = nn.Parameter(torch.randn(1, 1, shape.width) * 0.1)
        self.layers: Any = self.make_body(shape)

    def read(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each input's tokens and mask, those of `SAID` first; "scene" is for all that is shown."""
        parts = super().read(batch)
        post, mask = parts["post"]
        scene = {"scene": (self.scene.expand_as(post), mask)}
        return {name: parts.pop(name) for name in self.SAID} | scene | parts

    def make_body(self, shape: Shape) -> nn.Module:
        """Return the layers of both streams."""
        how = shape.width, self.HEADS, shape.dropout / 3
        relate = AttentionLayer(*how)
        return nn.ModuleDict({"relate": relate, "meet": nn.ModuleList([CoAttention(*how) for _ in range(self.LAYERS)])})

    def meet(self, said: Encoded, shown: Encoded, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the layers make of the tokens of both streams; `boxes` (n, shown, 5) are zeros where there is none."""
        first, second = said.tokens, self.layers["relate"](shown.tokens, shown.tokens, shown.mask)
        for layer in self.layers["meet"]:
            first, second = layer(first, second, said.mask, shown.mask)
        return first, second

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """Return the tokens of a batch after all layers."""
        parts = {name: (self.dropout(self.norm(tokens)), mask) for name, (tokens, mask) in self.read(batch).items()}
        both = join_tokens(parts)
        said = join_tokens({name: parts.pop(name) for name in self.SAID})
        shown = join_tokens(parts)
        boxes = functional.pad(batch["word_boxes"], (0, 0, 1, batch["seen"].shape[1]))
        return replace(both, tokens=self.norm_last(torch.cat(self.meet(said, shown, boxes), dim=1)))


class Lxmert(TwoStream):
    """The same tokens in `transformers.LxmertModel` (Tan and Bansal, 2019), from random weights."""

    def make_body(self, shape: Shape) -> nn.Module:
        """Return the model of transformers."""
        from transformers import LxmertConfig, LxmertModel

        config = LxmertConfig(
            vocab_size=1,
            hidden_size=shape.width,
            num_attention_heads=self.HEADS,
            intermediate_size=4 * shape.width,
            l_layers=1,
            r_layers=1,
            x_layers=self.LAYERS,
            visual_feat_dim=shape.width,
            visual_pos_dim=5,
            max_position_embeddings=2 * MOST_CHARACTERS + 3,
            hidden_dropout_prob=shape.dropout / 3,
            attention_probs_dropout_prob=shape.dropout / 3,
        )
        model = LxmertModel(config)
        # Tokens bring their own places: counted from the start they would move with the padding.
        model.embeddings.position_embeddings.weight.requires_grad_(False).zero_()
        return model

    def meet(self, said: Encoded, shown: Encoded, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the model makes of the tokens of both streams."""
        answer = self.layers(
            inputs_embeds=said.tokens,
            attention_mask=said.mask.long(),
            visual_feats=shown.tokens,
            visual_pos=boxes,
            visual_attention_mask=shown.mask.long(),
        )
        return answer.language_output, answer.vision_output
