"""The networks by name, built."""

from collections.abc import Callable

from weibotag.training.network.architectures.concat import Concat
from weibotag.training.network.architectures.hma import Hma
from weibotag.training.network.architectures.network import Network, Shape
from weibotag.training.network.architectures.presets import PRESETS, resolve
from weibotag.training.network.architectures.sm_lstm import SmLstm
from weibotag.training.network.architectures.transformer import Transformer

OTHERS: dict[str, Callable[[Shape], Network]] = {"concat": Concat, "hma": Hma, "sm-lstm": SmLstm}


def build(name: str, shape: Shape) -> Network:
    """Return a network with random weights; raises RequestError for a name that is not there."""
    name = resolve(name)
    return Transformer(shape, PRESETS[name]) if name in PRESETS else OTHERS[name](shape)
