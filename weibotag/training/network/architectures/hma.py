"""Hierarchical multimodal attention."""

import torch
from torch import Tensor, nn

from weibotag.training.network.architectures.network import Network, Shape
from weibotag.training.network.layers import AttentionPooling, pool_mean


class Hma(Network):
    """Hierarchical multimodal attention, after Look, Read and Feel (Zhang et al., 2020).

    Pictures go through an autoencoder, whose reconstruction loss draws like things together, and as a whole through an
    MLP; print, as fastText's vectors of its characters (`vectors`), through a BiLSTM. Attention first within each modality,
    then, once for each task, over the modalities.
    """

    STARTS_FROM_VECTORS = True
    MODALITIES = ("text", "print", "words", "regions", "picture", "author", "channel")

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.width
        self.encode = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.vector, width), nn.GELU())
        self.decode = nn.Linear(width, shape.vector)
        self.picture = nn.Sequential(
            nn.Dropout(shape.dropout),
            nn.Linear(shape.vector, 2 * width),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(2 * width, width),
        )
        self.reader = nn.LSTM(width, width // 2, batch_first=True)
        self.reader_back = nn.LSTM(width, width // 2, batch_first=True)
        self.within = nn.ModuleDict({name: AttentionPooling(width) for name in ("text", "print", "words", "regions")})
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in self.MODALITIES})
        self.own = nn.ModuleDict({name: nn.Linear(width, width) for name in self.MODALITIES})
        tasks = ("tags", *shape.tasks)
        self.across = nn.ModuleDict({task: AttentionPooling(width) for task in tasks})
        self.mix = nn.ModuleDict({task: nn.Sequential(nn.Linear(width, 2 * width), nn.GELU()) for task in tasks})
        self.heads = self.make_heads(2 * width, shape)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        regions = self.encode(batch["pictures"])
        tokens = {
            "text": (self.read_text(batch), batch["text"] > 0),
            "print": (self._read(self.text(batch["print"]), batch["print"] > 0), batch["print"] > 0),
            "words": (self.words(batch["words"], batch["word_kinds"], batch["word_boxes"]), batch["words"] > 0),
            "regions": (regions, batch["seen"]),
        }
        answer, vectors = {}, {}
        for name, (some, mask) in tokens.items():
            vectors[name], answer[f"attention_{name}"] = self.within[name](some, mask)
        vectors["picture"] = self.picture(pool_mean(batch["pictures"], batch["seen"]))
        vectors |= {"author": self.author(batch["author"]), "channel": self.channel(batch["channel"])}
        has = {name: mask.any(1) for name, (_, mask) in tokens.items()}
        has |= {"picture": has["regions"], "author": batch["author"] > 0, "channel": batch["channel"] > 0}
        stacked = torch.stack(
            [torch.tanh(self.own[name](self.dropout(self.norms[name](vectors[name])))) for name in self.MODALITIES], dim=1
        )
        present = torch.stack([has[name] for name in self.MODALITIES], dim=1)
        for task, head in self.heads.items():
            fused, answer[f"attention_{task}"] = self.across[task](stacked, present)
            answer[task] = head(self.dropout(self.mix[task](fused)))
        for name in ("print", "words"):
            at = self.MODALITIES.index(name)
            answer[f"share_{name}"] = answer["attention_tags"][:, at : at + 1] * answer[f"attention_{name}"]
        lost = (self.decode(regions) - batch["pictures"]).float() ** 2 * batch["seen"].unsqueeze(-1)
        answer["loss"] = lost.sum() / (batch["seen"].sum().clamp(min=1) * lost.shape[-1])
        return answer

    def _read(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return what a BiLSTM makes of the tokens; it goes backwards from each row's own last token, not from padding."""
        lengths, steps = mask.sum(1, keepdim=True), torch.arange(mask.shape[1], device=mask.device)
        turned = torch.where(steps < lengths, lengths - 1 - steps, steps).unsqueeze(-1)
        forth, _ = self.reader(tokens)
        back, _ = self.reader_back(tokens.gather(1, turned.expand_as(tokens)))
        return torch.cat([forth, back.gather(1, turned.expand_as(back))], dim=-1)
