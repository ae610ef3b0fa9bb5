"""One transformer over text and pictures."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weibotag.taggers.fusion.features import MOST_CHARACTERS, MOST_WORDS
from weibotag.taggers.fusion.networks.network import Encoded, Shape, Transformer, join_tokens
from weibotag.taggers.fusion.trunk import AttentionLayer


class SingleStream(Transformer):
    """Text, print, words and pictures as tokens of one transformer: the architecture of VisualBERT (Li et al., 2019),
    VL-BERT (Su et al., 2020) and Unicoder-VL (Li et al., 2020).

    A token is what it says + its kind + its place in the text or in its picture.
    """

    LAYERS, HEADS = 2, 4

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.width
        self.project = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.vector, width))
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.places = nn.Embedding(MOST_CHARACTERS, width)
        self.segments = nn.Embedding(4, width)
        # Small, or what a token says would drown in where it stands.
        for table in (self.places, self.segments):
            nn.init.normal_(table.weight, std=0.02)
        self.print_place = nn.Linear(5, width, bias=False)
        self.norm, self.norm_last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers: Any = self.make_body(shape)
        self.heads = self.make_heads(2 * width, shape)

    def embed(self, batch: dict[str, Tensor]) -> Encoded:
        """Return the tokens before the first layer: the first for the whole post, the last those of pictures."""
        text, print_ = (self._at_places(self.text(batch[name])) for name in ("text", "print"))
        said = torch.stack([self.author(batch["author"]), self.channel(batch["channel"])], dim=1)
        named = torch.stack([batch["author"], batch["channel"]], dim=1) > 0
        first = self.first.expand(text.shape[0], -1, -1)
        parts = {
            "post": (first, torch.ones_like(named[:, :1])),
            "text": (text + self.segments.weight[0], batch["text"] > 0),
            "print": (print_ + self.print_place(batch["print_boxes"]) + self.segments.weight[1], batch["print"] > 0),
            "words": (self.words(batch["words"], batch["word_kinds"], batch["word_boxes"]), batch["words"] > 0),
            "names": (said + self.segments.weight[3], named),
            "pictures": (self.project(batch["pictures"]) + self.segments.weight[2], batch["seen"]),
        }
        return join_tokens(parts)

    def _at_places(self, tokens: Tensor) -> Tensor:
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        return tokens + self.places(steps)

    def make_body(self, shape: Shape) -> nn.Module:
        """Return the layers of the transformer."""
        return nn.ModuleList([AttentionLayer(shape.width, self.HEADS, shape.dropout / 3) for _ in range(self.LAYERS)])

    def think(self, tokens: Tensor, mask: Tensor, pictures: int) -> Tensor:
        """Return what the layers make of tokens (n, t, width), the last `pictures` of which are pictures."""
        for layer in self.layers:
            tokens = layer(tokens, tokens, mask)
        return tokens

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """Return the tokens of a batch after all layers."""
        first = self.embed(batch)
        pictures = batch["seen"].shape[1]
        tokens = self.norm_last(self.think(self.dropout(self.norm(first.tokens)), first.mask, pictures))
        return replace(first, tokens=tokens)


class VisualBert(SingleStream):
    """The same tokens in `transformers.VisualBertModel` (Li et al., 2019), from random weights."""

    def make_body(self, shape: Shape) -> nn.Module:
        """Return the model of transformers."""
        from transformers import VisualBertConfig, VisualBertModel

        config = VisualBertConfig(
            vocab_size=1,
            hidden_size=shape.width,
            num_hidden_layers=self.LAYERS,
            num_attention_heads=self.HEADS,
            intermediate_size=4 * shape.width,
            visual_embedding_dim=shape.width,
            max_position_embeddings=2 * MOST_CHARACTERS + MOST_WORDS + 3,
            hidden_dropout_prob=shape.dropout / 3,
            attention_probs_dropout_prob=shape.dropout / 3,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
        return VisualBertModel(config, add_pooling_layer=False)

    def think(self, tokens: Tensor, mask: Tensor, pictures: int) -> Tensor:
        """Return what the model makes of tokens (n, t, width), the last `pictures` of which are pictures."""
        numbers = mask.long()
        return self.layers(
            inputs_embeds=tokens[:, :-pictures],
            attention_mask=numbers[:, :-pictures],
            visual_embeds=tokens[:, -pictures:],
            visual_attention_mask=numbers[:, -pictures:],
            visual_token_type_ids=torch.ones_like(numbers[:, -pictures:]),
        ).last_hidden_state
