"""Networks that are no transformers, and all networks built by their names."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from weibotag.training.network.architectures.network import AttentionPooling, Network, Shape, attend, pool_mean
from weibotag.training.network.architectures.transformer import Transformer
from weibotag.training.network.settings import PRESETS, resolve


class Concat(Network):
    """Late fusion: the mean of each input, side by side, through a network of two layers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.width
        self.picture = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.vector, 2 * width), nn.GELU())
        self.mix = nn.Sequential(
            nn.Linear(8 * width, 4 * width), nn.GELU(), nn.Dropout(shape.dropout), nn.Linear(4 * width, 2 * width), nn.GELU()
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(6)] + [nn.LayerNorm(2 * width)])
        self.heads = self.make_heads(2 * width, shape)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        parts = [
            pool_mean(self.read_text(batch), batch["text"] > 0),
            pool_mean(self.text(batch["print"]), batch["print"] > 0),
            pool_mean(self.words(batch["words"], batch["word_kinds"], batch["word_boxes"]), batch["words"] > 0),
            self.author(batch["author"]),
            self.channel(batch["channel"]),
            self.read_meaning(batch)[0],
            pool_mean(self.picture(batch["pictures"]), batch["seen"]),
        ]
        mixed = torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=1)
        vector = self.dropout(self.mix(self.dropout(mixed)))
        return {name: head(vector) for name, head in self.heads.items()}


class ContextAttention(nn.Module):
    """Tokens to one vector, by what is sought: p_j = w . tanh(A z_j + B c), a = softmax(p), the context c modulates p."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.token, self.context = nn.Linear(width, width), nn.Linear(context, width, bias=False)
        self.kernel = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor, keys: Tensor, mask: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, width), zeros for a row without tokens, and the attention (n, t); `keys` are A z_j, `context` c."""
        return attend(self.kernel(torch.tanh(keys + self.context(context).unsqueeze(1))).squeeze(-1), tokens, mask)


class SmLstm(Network):
    """The selective multimodal LSTM of Huang, Wang and Wang (CVPR 2017).

    At each of `STEPS` steps one attention picks a region, another a word of the text, knowing the mean of all and what was
    picked before; an LSTM aggregates how alike the two are. Regions are picture vectors, words that pictures say, and print.
    "match" (n,) is the logit that text and pictures are of one post; "attention_text" and "attention_print", "…_words",
    "…_pictures" (n, steps, length) say what each step looked at, the last three together 1. Tags are read from the last
    state and the mean of each input.
    """

    STEPS = 3

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.width
        self.picture = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.vector, width))
        self.print_place = nn.Linear(5, width, bias=False)
        self.norm_text, self.norm_region = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_word, self.norm_picked = nn.LayerNorm(width), nn.LayerNorm(width)
        self.choose_word, self.choose_region = ContextAttention(width, 2 * width), ContextAttention(width, 2 * width)
        self.compare = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Dropout(shape.dropout))
        self.lstm = nn.LSTMCell(width, width)
        # The plain product of what is picked reaches the answer by itself, too: without it the first epochs bring nothing.
        self.gain = nn.Parameter(torch.tensor(0.3))
        self.match = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(8)])
        self.mix = nn.Sequential(nn.Linear(8 * width, 2 * width), nn.GELU())
        self.heads = self.make_heads(2 * width, shape)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        parts = {
            "print": (self.text(batch["print"]) + self.print_place(batch["print_boxes"]), batch["print"] > 0),
            "words": (self.words(batch["words"], batch["word_kinds"], batch["word_boxes"]), batch["words"] > 0),
            "pictures": (self.picture(batch["pictures"]), batch["seen"]),
        }
        parts = {name: (self.dropout(self.norm_region(tokens)), mask) for name, (tokens, mask) in parts.items()}
        regions, seen = (torch.cat(some, dim=1) for some in zip(*parts.values(), strict=True))
        text, written = self.dropout(self.norm_text(self.read_text(batch))), batch["text"] > 0
        state, alike, at_text, at_regions = self._look(text, written, regions, seen)
        answer = {"match": self.match(state).squeeze(-1) + self.gain * alike, "attention_text": at_text}
        start = 0
        for name, (_, mask) in parts.items():
            # Numbers that were worked out from shapes by anything but torch would stand in the exported file.
            end = start + mask.shape[1]
            answer[f"attention_{name}"] = at_regions[:, :, start:end]
            start = end
        answer |= {f"share_{name}": answer[f"attention_{name}"].mean(1) for name in ("print", "words")}
        pooled = [state, pool_mean(text, written), *(pool_mean(tokens, mask) for tokens, mask in parts.values())]
        pooled += [self.author(batch["author"]), self.channel(batch["channel"]), self.read_meaning(batch)[0]]
        mixed = torch.cat([norm(part) for norm, part in zip(self.norms, pooled, strict=True)], dim=1)
        vector = self.dropout(self.mix(self.dropout(mixed)))
        return answer | {name: head(vector) for name, head in self.heads.items()}

    def _look(self, text: Tensor, written: Tensor, regions: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        """Return the last state (n, width), how alike the picks are (n,), and each step's attention (n, steps, length)."""
        of_text, of_regions = pool_mean(text, written), pool_mean(regions, seen)
        text_keys, region_keys = self.choose_word.token(text), self.choose_region.token(regions)
        state = memory = torch.zeros_like(of_text)
        products, at_text, at_regions = [], [], []
        for _ in range(self.STEPS):
            word, weights = self.choose_word(text, text_keys, written, torch.cat([of_text, state], dim=1))
            region, places = self.choose_region(regions, region_keys, seen, torch.cat([of_regions, state], dim=1))
            word, region = self.norm_word(word), self.norm_picked(region)
            product = word * region
            state, memory = self.lstm(self.compare(torch.cat([word, region, product], dim=1)), (state, memory))
            products.append(product)
            at_text.append(weights)
            at_regions.append(places)
        # Of words and regions that have nothing to do with each other its variance is about 1.
        alike = torch.stack(products, dim=1).mean((1, 2)) * text.shape[2] ** 0.5
        return state, alike, torch.stack(at_text, dim=1), torch.stack(at_regions, dim=1)


class Hma(Network):
    """Hierarchical multimodal attention, after Look, Read and Feel (Zhang et al., 2020).

    Pictures go through an autoencoder, whose reconstruction loss draws like things together, and as a whole through an
    MLP; print, as fastText's vectors of its characters (`vectors`), through a BiLSTM. Attention first within each modality,
    then, once for each task, over the modalities.
    """

    STARTS_FROM_VECTORS = True
    MODALITIES = ("text", "print", "words", "regions", "picture", "author", "channel", "meaning")

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
        vectors["meaning"], has["meaning"] = self.read_meaning(batch)
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


OTHERS: dict[str, Callable[[Shape], Network]] = {"concat": Concat, "hma": Hma, "sm-lstm": SmLstm}


def build(name: str, shape: Shape) -> Network:
    """Return a network with random weights; raises RequestError for a name that is not there."""
    name = resolve(name)
    return Transformer(shape, PRESETS[name]) if name in PRESETS else OTHERS[name](shape)
