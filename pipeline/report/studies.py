"""Sections of the longer studies: not part of the stage's page, which reads its declared inputs alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.layout import Data, Results
from pipeline.params import lookup
from pipeline.report.blocks import Block, Missing
from pipeline.report.contents import Section
from pipeline.report.run import Run
from pipeline.report.sections import headline, heat
from pipeline.results.database import connect

# Study -> title, where params.yaml lists its models, what it shows.
_STUDIES: dict[str, tuple[str, str, Callable[[Run], Sequence[Block]]]] = {
    "attack": ("Study: attacks, white-box ones too", "attack.grid", heat.attacks),
    "ablation": ("Study: variants of the methods", "ablations", headline.build),
    "des_ablation": ("Study: parts and extensions of DES", "des_ablations", headline.build),
}


def sections(data: Path, params: Path) -> list[Section]:
    """A section per study; one that has not been run says so."""
    return [
        Section(f"study-{name}", title, lambda _, name=name: _build(data, params, name))
        for name, (title, _, _) in _STUDIES.items()
    ]


def _build(data: Path, params: Path, name: str) -> Sequence[Block]:
    _, models, build = _STUDIES[name]
    folder = Path(data) / "studies" / name
    missing = [Missing(f"Nothing is finished below {folder.as_posix()} yet.", f"make {name.replace('_', '-')}")]
    labels = list(lookup(params, models))
    try:
        database = connect(folder, labels)
    except NearsafeError:
        return missing
    run = Run(database, Data(folder), Results(folder / "results"), labels, option=f" --data {folder.as_posix()}")
    return build(run) if run.holds("scores") else missing
