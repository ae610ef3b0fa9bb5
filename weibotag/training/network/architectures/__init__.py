"""The networks by name. Each takes a batch (`features.INPUTS`) and gives log-probabilities of tags, and what it attended to.

These are architectures, not checkpoints: each is trained on the user's own posts from nothing.
"""

from weibotag.training.network.architectures.concat import Concat
from weibotag.training.network.architectures.early import Early
from weibotag.training.network.architectures.hma import Hma
from weibotag.training.network.architectures.network import Network, Shape
from weibotag.training.network.architectures.patches import Patches
from weibotag.training.network.architectures.single_stream import SingleStream, VisualBert
from weibotag.training.network.architectures.sm_lstm import SmLstm
from weibotag.training.network.architectures.two_stream import Lxmert, TwoStream

NETWORKS: dict[str, type[Network]] = {
    "concat": Concat,
    "hma": Hma,
    "single-stream": SingleStream,
    "visualbert": VisualBert,
    "two-stream": TwoStream,
    "lxmert": Lxmert,
    "early": Early,
    "patches": Patches,
    "sm-lstm": SmLstm,
}

__all__ = ["NETWORKS", "Network", "Shape"]
