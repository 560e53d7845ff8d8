"""docs/queries.md, with answers from the data at hand.  python -m pipeline.results.queries_page"""

import argparse
from pathlib import Path

from pipeline.errors import run
from pipeline.params import DEFAULT_FILE, lookup
from pipeline.results.database import connect, query, questions
from pipeline.results.report import markdown
from pipeline.results.summary import write_text

ROWS, COLUMNS, CELL = 4, 8, 40
INTRO = """# Questions in SQL

This page is made by `python -m pipeline.results.queries_page`; its answers are those of the shipped run.

```bash
nearsafe queries                                     # the named queries, a line each
nearsafe query leaderboard                           # ask one
nearsafe query changes --set before=RUN --set after=RUN      # variables: getvariable('before') in SQL
nearsafe query "SELECT defence, value FROM headline WHERE name = 'asr'"
nearsafe query - --format json < question.sql        # SQL from standard input
nearsafe query per_category --out per_category.parquet       # .csv, .json, .parquet, or a table in text
nearsafe query leaderboard --data data/studies/ablation      # a study's data
nearsafe views                                       # everything that can be asked: tables, rules, views
```

A query is one SELECT (or SHOW, DESCRIBE, SUMMARIZE). It reads the listed Parquet files and nothing else: no other file,
no network, no extension, no setting; it has two threads and 2 GB, and ends with one error where that is too little.
Ctrl-C stops it. A table on a screen is cut to fit; a file, and what goes to another program, has everything.

## Without `nearsafe`

`results/results.duckdb` holds views and no data. Any DuckDB from 1.0 on reads it; its paths count from the root of the
repository, so start there, read-only. These lines are the stock command line:

```bash
duckdb -readonly results/results.duckdb "FROM tradeoff"
```

And these are Python:

```python
import duckdb

database = duckdb.connect("results/results.duckdb", read_only=True)
print(database.sql("FROM tradeoff"))
```

Opened this way DuckDB has its usual rights, and no limits but its own.

## Only what compares stands in one column

A view that sets numbers beside each other reads `comparable_scores` or `comparable_detections`. These end with an error
where two defences or training seeds differ in the detector or its hash, the rule, the feature network, the protocol,
the data of a benchmark, the prompts or images asked, the settings of the sampler or of the language model, or the
reference images. The error names the number and both sides; `score_conflicts` and `detection_conflicts` list all such
cases, and the tables `scores` and `detections` show every row as it is.

Images that a defence generated are its own, so their hash differs between defences and says nothing. There the prompts
and settings count (of a white-box attack, the prompts that its search started from), and for the Frechet distance and
the attributes also the world that the reference images and labels are from. What no table tells is not compared.
A run's log keeps numbers alone: `changes` cannot know what they were measured by, and its `revision` can.

## The named queries
"""


def main(params: Path, data: Path, out: Path) -> None:
    """Write the page from the tables below `data`. Raises NearsafeError."""
    database = connect(data, list(lookup(params, "defences")))
    parts = [INTRO]
    for name, meaning in questions():
        answer = query(database, f"FROM {name}")
        parts += [f"### `{name}`", "", meaning, ""]
        if not answer.rows:
            parts += ["No rows in the shipped run: runs are logged by `nearsafe repro` and by flows.", ""]
            continue
        body = [[_cell(value) for value in row[:COLUMNS]] for row in answer.rows[:ROWS]]
        hidden = len(answer.columns) - COLUMNS
        more = f"{len(answer.rows)} rows" + (f", {hidden} more columns" if hidden > 0 else "")
        parts += [*markdown(answer.columns[:COLUMNS], body), "", f"{more}.", ""]
    write_text(out, "\n".join(parts).rstrip() + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--params", type=Path, default=DEFAULT_FILE, help="file whose defences are shown")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="directory of all stages' outputs")
    arguments.add_argument("--out", type=Path, default=Path("docs/queries.md"), help="the page")
    return arguments


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


if __name__ == "__main__":
    run(main, parser())
