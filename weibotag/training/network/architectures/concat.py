"""Late fusion."""

import torch
from torch import Tensor, nn

from weibotag.training.network.architectures.network import Network, Shape
from weibotag.training.network.layers import pool_mean


class Concat(Network):
    """Late fusion: the mean of each input, side by side, through a network of two layers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.width
        self.picture = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.vector, 2 * width), nn.GELU())
        self.mix = nn.Sequential(
            nn.Linear(7 * width, 4 * width), nn.GELU(), nn.Dropout(shape.dropout), nn.Linear(4 * width, 2 * width), nn.GELU()
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(5)] + [nn.LayerNorm(2 * width)])
        self.heads = self.make_heads(2 * width, shape)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        parts = [
            pool_mean(self.read_text(batch), batch["text"] > 0),
            pool_mean(self.text(batch["print"]), batch["print"] > 0),
            pool_mean(self.words(batch["words"], batch["word_kinds"], batch["word_boxes"]), batch["words"] > 0),
            self.author(batch["author"]),
            self.channel(batch["channel"]),
            pool_mean(self.picture(batch["pictures"]), batch["seen"]),
        ]
        mixed = torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=1)
        vector = self.dropout(self.mix(self.dropout(mixed)))
        return {name: head(vector) for name, head in self.heads.items()}
