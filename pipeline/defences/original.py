"""The undefended model: the baseline goes through the same stages as every defence."""

from dataclasses import dataclass

from pipeline.defences.protocol import Kind

KIND: Kind = "none"


@dataclass(frozen=True)
class Params:
    """Nothing to choose."""
