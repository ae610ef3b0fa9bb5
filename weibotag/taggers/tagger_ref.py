"""Which tagger answers, and what it may spend: all that a run needs to open it, small enough to send to any process."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class BudgetPlan:
    """What a cascade may spend, and on what, as `weibotag plan` found it; all of it unset without a plan.

    `rate` and `network_rate` are the least gains per millisecond for which a look is taken and the network asked (None: the
    model's own), `floor` the rate below which a look is not worth it whatever time is left. `prices` are milliseconds of
    steps, instead of the model's own; `loading` seconds for loading the models of stages; `budget` seconds of the whole run,
    None for as long as looks pay.
    """

    rate: float | None = None
    network_rate: float | None = None
    floor: float = 0.0
    prices: Mapping[str, float] = field(default_factory=dict)
    loading: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = None


@dataclass(frozen=True)
class TaggerRef:
    """The tagger that answers: `route` of the model, or of the taxonomy, at `place`, whose digest is `digest`.

    `digest` is that of a model's model.json, or a taxonomy's own. `stages` are those whose bits the column `looked` has, in
    order. `late` tells that time ran out before all was looked at that should have been.
    """

    route: str
    place: str
    digest: str
    stages: tuple[str, ...] = ()
    plan: BudgetPlan = field(default_factory=BudgetPlan)
    late: bool = False

    def request(self) -> dict[str, Any]:
        """Return, for JSON, what an answer depends on: a run of another tagger or plan is another run."""
        return {"route": self.route, "place": self.place, "digest": self.digest, "plan": asdict(self.plan)}
