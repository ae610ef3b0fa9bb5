"""Pictures as patches in their order."""

import torch
from torch import Tensor, nn

from weibotag.features.post_batches import MOST_CELLS, MOST_GRIDS
from weibotag.training.network.architectures.network import Shape
from weibotag.training.network.architectures.single_stream import SingleStream


class Patches(SingleStream):
    """The cells of a picture's grid, in order, in place of its one vector: the architecture of FashionBERT (Gao et al.,
    2020). A picture without patches keeps its vector.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.project_patch = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.patch, shape.width))
        self.cells = nn.Embedding(MOST_GRIDS * MOST_CELLS + 1, shape.width, padding_idx=0)
        nn.init.normal_(self.cells.weight, std=0.1)

    def read(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each input's tokens and mask; a picture that has patches is masked."""
        parts = super().read(batch)
        pictures, seen = parts.pop("pictures")
        cells = batch["patch_cells"]
        there = (cells > 0) & seen.any(1, keepdim=True)
        patches = self.project_patch(batch["patches"]) + self.cells(cells) + self.segments.weight[2]
        numbers = torch.arange(seen.shape[1], device=seen.device)
        parted = (((cells - 1) // MOST_CELLS).unsqueeze(2) == numbers) & there.unsqueeze(2)
        return parts | {"patches": (patches, there), "pictures": (pictures, seen & ~parted.any(1))}
