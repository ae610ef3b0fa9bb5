"""One transformer over text and pictures."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weibotag.training.network.architectures.network import Encoded, Shape, Transformer, join_tokens
from weibotag.training.network.layers import AttentionLayer


class SingleStream(Transformer):
    """Text, print, words and pictures as tokens of one transformer: the architecture of VisualBERT (Li et al., 2019),
    VL-BERT (Su et al., 2020) and Unicoder-VL (Li et al., 2020).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.layers: Any = self.make_body(shape)

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
        first = join_tokens(self.read(batch))
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
            max_position_embeddings=1,
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
            # Tokens bring their own places: counted from the start they would move with the padding.
            position_ids=torch.zeros_like(numbers[:, :-pictures]),
            attention_mask=numbers[:, :-pictures],
            visual_embeds=tokens[:, -pictures:],
            visual_attention_mask=numbers[:, -pictures:],
            visual_token_type_ids=torch.ones_like(numbers[:, -pictures:]),
        ).last_hidden_state
