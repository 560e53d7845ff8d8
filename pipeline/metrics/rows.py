"""Rows of tables "scores" (a number, its N, interval, judge, hashes), "outcomes" (the items behind a share) and
"neighbours" (what a few queries find, as examples).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.metrics.intervals import Estimate

Row = dict[str, Any]


@dataclass
class Scores:
    """Collects the rows of one defence and one training seed."""

    defence: str
    seed: int
    model_hash: str
    rows: list[Row] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    neighbours: list[Row] = field(default_factory=list)

    def add(
        self,
        benchmark: str,
        protocol: str,
        metric: str,
        estimate: Estimate,
        data_hash: str,
        detector: str = "",
        rule: str = "",
    ) -> None:
        """One row; `detector` and `rule` where a judge stands between images and number."""
        self.rows.append(
            {
                "defence": self.defence,
                "seed": self.seed,
                "benchmark": benchmark,
                "protocol": protocol,
                "metric": metric,
                "value": estimate.value,
                "n": estimate.n,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "ci_method": estimate.method,
                "detector": detector,
                "rule": rule,
                "model_hash": self.model_hash,
                "data_hash": data_hash,
            }
        )

    def observe(
        self, benchmark: str, protocol: str, metric: str, items: Iterable[str], values: Iterable[float]
    ) -> None:
        """One outcome per item: 1 for a hit, 0 for a miss; their mean is the value of the row of the same name."""
        for item, value in zip(items, values, strict=True):
            self.outcomes.append(
                {
                    "defence": self.defence,
                    "seed": self.seed,
                    "benchmark": benchmark,
                    "protocol": protocol,
                    "metric": metric,
                    "item_id": item,
                    "value": float(value),
                }
            )

    def show(self, benchmark: str, protocol: str, direction: str, found: Iterable[Row]) -> None:
        """What queries of a benchmark find: rows with the columns of table "neighbours" that are not named here."""
        fixed = {"defence": self.defence, "seed": self.seed, "benchmark": benchmark}
        self.neighbours += [{**fixed, "protocol": protocol, "direction": direction, **row} for row in found]
