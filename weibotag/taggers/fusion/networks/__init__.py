"""The networks by name. Each takes a batch (`features.INPUTS`) and gives log-probabilities of tags, and what it attended to.

These are architectures, not checkpoints: each is trained on the user's own posts from nothing.
"""

from weibotag.taggers.fusion.networks.concat import Concat
from weibotag.taggers.fusion.networks.hma import Hma
from weibotag.taggers.fusion.networks.network import Network, Shape
from weibotag.taggers.fusion.networks.single_stream import SingleStream, VisualBert

NETWORKS: dict[str, type[Network]] = {
    "concat": Concat,
    "hma": Hma,
    "single-stream": SingleStream,
    "visualbert": VisualBert,
}

__all__ = ["NETWORKS", "Network", "Shape"]
