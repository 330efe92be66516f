"""No tracker: metrics are on disk either way."""

from dataclasses import dataclass

from sft_exp.track import Tracker


@dataclass
class Nowhere(Tracker):
    pass
