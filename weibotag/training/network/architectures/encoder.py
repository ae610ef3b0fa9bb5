"""A language model that reads the text for a network."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.vision.backends.transformers_model import find_folder, load_pretrained

# What of an encoder is trained, and its learning rate as a share of the network's own.
RATES = {"frozen": 0.0, "full": 0.02, "lora": 0.25}
RANK = 8


class TextEncoder(nn.Module):
    """The states of an encoder of transformers (BERT and its like), each at the characters of its token.

    `training` says what of it is trained with the network: "frozen", nothing; "full", all its weights; "lora", low-rank
    additions to its linear layers (LoRA, Hu et al., 2022), which `merge` adds to the weights for good.
    """

    def __init__(self, name: str, width: int, training: str = "frozen") -> None:
        """Load a model from a folder or hf:owner/name; raises RequestError where there is none."""
        super().__init__()
        folder, _ = find_folder(name)
        self.model: Any = load_pretrained(folder, "AutoTokenizer", "AutoModel", attn_implementation="eager")[1]
        self.rate = RATES[training]
        self.model.requires_grad_(training == "full")
        if training == "lora":
            from peft import LoraConfig, get_peft_model

            with warnings.catch_warnings():
                # It asks transformers for something by its older name.
                warnings.simplefilter("ignore", FutureWarning)
                self.model = get_peft_model(self.model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
        self.project = nn.Linear(self.model.config.hidden_size, width)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Set the mode; a frozen model stays as in use."""
        super().train(mode)
        self.model.train(mode and self.rate > 0)
        return self

    def merge(self) -> None:
        """Make an encoder with low-rank additions one without, that answers the same."""
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload()

    def forward(self, tokens: Tensor, token_of: Tensor) -> Tensor:
        """Return (n, t, width) for tokens (n, k) and the token of each character (n, t), both from 1; zeros for 0."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.rate > 0):
            states = self.model(input_ids=(tokens - 1).clamp(min=0), attention_mask=(tokens > 0).long()).last_hidden_state
        states = functional.pad(self.project(states), (0, 0, 1, 0))
        return states.gather(1, token_of.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
