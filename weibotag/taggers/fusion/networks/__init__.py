"""The networks by name. Each takes a batch (`features.INPUTS`) and gives log-probabilities of tags, and what it attended to.

These are architectures, not checkpoints: each is trained on the user's own posts from nothing.
"""

from weibotag.taggers.fusion.networks.concat import Concat
from weibotag.taggers.fusion.networks.early import Early
from weibotag.taggers.fusion.networks.hma import Hma
from weibotag.taggers.fusion.networks.network import Network, Shape
from weibotag.taggers.fusion.networks.patches import Patches
from weibotag.taggers.fusion.networks.single_stream import SingleStream, VisualBert
from weibotag.taggers.fusion.networks.sm_lstm import SmLstm
from weibotag.taggers.fusion.networks.two_stream import Lxmert, TwoStream

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
