"""The results as a page.  python -m stages.report --params params.yaml --data data --results results --out report"""

import argparse
from pathlib import Path

from pipeline.errors import run
from pipeline.layout import Report
from pipeline.params import lookup
from pipeline.report.page import write_report
from pipeline.report.run import open_run


def main(params: Path, data: Path, results: Path, out: Path) -> None:
    """Read every finished table below `data`; write the files of pipeline.layout.Report. Raises NearsafeError."""
    write_report(open_run(data, results, list(lookup(params, "defences"))), Report(out))


def parser() -> argparse.ArgumentParser:
    """The command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--params", type=Path, required=True, help="params.yaml; its defences are shown, in order")
    arguments.add_argument("--data", type=Path, required=True, help="directory of all stages' outputs")
    arguments.add_argument("--results", type=Path, required=True, help="directory of the results stage")
    arguments.add_argument("--out", type=Path, required=True, help="directory of the page")
    return arguments


if __name__ == "__main__":
    run(main, parser())
