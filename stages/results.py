"""Views, headline numbers, plots and the results table.  python -m stages.results --data data --out results"""

import argparse
from pathlib import Path

from pipeline.errors import run
from pipeline.layout import Results
from pipeline.params import lookup
from pipeline.results.database import connect, write_database
from pipeline.results.figures import write_separation
from pipeline.results.picture import write_picture
from pipeline.results.report import write_table
from pipeline.results.summary import projections, write_metrics, write_plots


def main(params: Path, data: Path, out: Path) -> None:
    """Read every finished table below `data`; write the files of pipeline.layout.Results. Raises NearsafeError."""
    defences = list(lookup(params, "defences"))
    database = connect(data, defences, verify=True)
    results = Results(out)
    write_metrics(database, results.metrics, defences)
    write_plots(database, results.plots)
    write_table(database, results.table, defences)
    write_picture(database, data, defences, results.picture)
    write_separation(projections(database, defences), results.separation)
    write_database(results.database, data, defences)


def parser() -> argparse.ArgumentParser:
    """The command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--params", type=Path, required=True, help="params.yaml; its defences are shown, in order")
    arguments.add_argument("--data", type=Path, required=True, help="directory of all stages' outputs")
    arguments.add_argument("--out", type=Path, required=True, help="directory of the results")
    return arguments


if __name__ == "__main__":
    run(main, parser())
