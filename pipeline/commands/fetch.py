"""nearsafe fetch: the models that params.yaml names as hub/<org>/<name>, at their pinned commits."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def fetch(
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
) -> None:
    """Fetch the models that the parameter file names as hub/<org>/<name>, at the commits pinned in its section `hub`.

    safetensors, configurations and vocabularies only: no pickles, no code. Each folder gets nearsafe.json with the
    commit and the hash of every file, which later calls verify. A stopped download continues at the next call. No other
    command asks a hub for anything.

    Exit status: 0 all are there; 2 one cannot be fetched, or is not what was fetched: one line says why.
    """
    from pipeline.fetching import fetch as fetch_all

    fetch_all(params, Path(), partial(print, flush=True))
