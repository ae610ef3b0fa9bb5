"""A language model that reads the text for a network."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.backends.transformers_model import find_folder, load_pretrained


class TextEncoder(nn.Module):
    """The states of a frozen encoder of transformers (BERT and its like), each at the characters of its token."""

    def __init__(self, name: str, width: int) -> None:
        """Load a model from a folder or hf:owner/name; raises RequestError where there is none."""
        super().__init__()
        folder, _ = find_folder(name)
        _, self.model, _ = load_pretrained(folder, "AutoTokenizer", "AutoModel", attn_implementation="eager")
        self.model.requires_grad_(False)
        self.project = nn.Linear(self.model.config.hidden_size, width)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Set the mode; the model itself stays as in use."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, tokens: Tensor, token_of: Tensor) -> Tensor:
        """Return (n, t, width) for tokens (n, k) and the token of each character (n, t), both from 1; zeros for 0."""
        with torch.no_grad():
            states = self.model(input_ids=(tokens - 1).clamp(min=0), attention_mask=(tokens > 0).long()).last_hidden_state
        states = functional.pad(self.project(states), (0, 0, 1, 0))
        return states.gather(1, token_of.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
