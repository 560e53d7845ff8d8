"""Rewrite the tables of one study in docs/findings.md; what people wrote there stays as it is.

python -m stages.findings --params params.yaml --study ablation --data data/studies/ablation --page docs/findings.md \\
    --out results/findings/ablation
"""

import argparse
from functools import partial
from pathlib import Path

from pipeline.errors import run
from pipeline.results.findings import STUDIES, Study, write_findings


def main(params: Path, study: Study, data: Path, page: Path, out: Path) -> None:
    """Fill the blocks of the study in `page`, write its numbers as CSV below `out`. Raises NearsafeError."""
    write_findings(params, study, data, page, out, partial(print, flush=True))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with the sections of the study")
    arguments.add_argument("--study", choices=STUDIES, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="directory of the study's outputs")
    arguments.add_argument("--page", type=Path, required=True, help="Markdown with <!-- table: NAME --> markers")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
