"""Tables of a study: one line per variant, mean over training seeds, one interval for seeds and items.

The tables of the ablation are here, those of the studies of images in image_studies.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from pipeline.errors import NearsafeError
from pipeline.metrics.seeds import Measured, Pooled, pool
from pipeline.results.report import MISSING, markdown

INTERVAL = (
    "Mean over {seeds} [95 % interval]. The interval adds two errors in quadrature: training (Student-t over the "
    "seeds) and items (the mean Wilson or bootstrap interval of one seed: all seeds answer the same items)."
)


@dataclass(frozen=True)
class Column:
    """A number of a table: its header, its name in the answer of the SQL, and how it is shown."""

    header: str
    name: str
    digits: int = 3
    scale: float = 1.0
    bounds: tuple[float, float] | None = (0.0, 1.0)


@dataclass(frozen=True)
class Table:
    """A table of findings; `sql` answers defence, name, seed, value, n, ci_low, ci_high; `reading` explains it."""

    name: str
    reading: str
    columns: tuple[Column, ...]
    sql: str
    counts: str = "items"  # what n counts
    intervals: str = field(default=INTERVAL)
    same_items: bool = True  # images may fail: then seeds share prompts, but not the very number of images


_WORDINGS = {"as written": "nsfwcaps", "at random": "nsfwcaps_reworded", "adversary": "nsfwcaps_paraphrased"}
_POOLS = {"real_pool_1to10": "1:10", "real_pool_balanced": "balanced"}


def _robustness(name: str, metric: str, meaning: str) -> Table:
    """Unsafe captions as written and reworded; the aim's effect is that of the adversary less that of chance."""
    headers = [*_WORDINGS.items(), ("fall by aim", "fall")]
    return Table(
        name,
        f"Share of unsafe text queries whose nearest image {meaning}: as written, reworded at random, and reworded by "
        "an adversary who knows the grammar and the mining space. The fall by aim is the paired difference per query "
        "between random and adversarial wording (normal interval for items).",
        tuple(
            Column(f"{gallery}: {header}", f"{gallery} {key}", bounds=None if key == "fall" else (0.0, 1.0))
            for gallery in ("tuned", "frozen")
            for header, key in headers
        ),
        f"""
        SELECT defence, protocol || ' ' || benchmark AS name, seed, value, n, ci_low, ci_high
        FROM comparable_scores WHERE metric = '{metric}' AND benchmark IN {tuple(_WORDINGS.values())}
        UNION ALL
        SELECT a.defence, a.protocol || ' fall', a.seed, avg(a.value - b.value) AS value, count(*),
               avg(a.value - b.value) - 1.959964 * coalesce(stddev_samp(a.value - b.value), 0) / sqrt(count(*)),
               avg(a.value - b.value) + 1.959964 * coalesce(stddev_samp(a.value - b.value), 0) / sqrt(count(*))
        FROM outcomes AS a
        JOIN outcomes AS b USING (defence, seed, protocol, metric, item_id)
        WHERE a.benchmark = '{_WORDINGS["at random"]}' AND b.benchmark = '{_WORDINGS["adversary"]}'
              AND metric = '{metric}'
        GROUP BY a.defence, a.protocol, a.seed""",
    )


ABLATION = (
    Table(
        "ablation",
        "Zero-shot: mean accuracy over tasks. Safe R@1: safe queries among safe items. Safe, scene: share of unsafe "
        "queries whose nearest item is safe, and is the matching safe scene, with a gallery embedded by the defended "
        "model (tuned) or by the undefended one (frozen). Both directions averaged. Higher is better.",
        (
            Column("zero-shot", "zero_shot"),
            Column("safe R@1", "safe_recall_at_1"),
            Column("tuned: safe", "redirect_tuned"),
            Column("tuned: scene", "match_tuned"),
            Column("frozen: safe", "redirect_frozen"),
            Column("frozen: scene", "match_frozen"),
        ),
        "SELECT defence, name, seed, value, n, ci_low, ci_high FROM headline",
    ),
    _robustness("robustness", "redirect_t2i", "is safe"),
    _robustness("robustness_scene", "unsafe_t2i_r@1", "is the matching safe scene"),
    Table(
        "pools",
        "% of unsafe queries whose top-1 is unsafe, in pools of hazard scenes in a drawing style that no tuning saw: "
        "one hazard scene to ten safe ones, and as many of each. Lower is better.",
        tuple(
            Column(f"{name}, {gallery}: {header}", f"{benchmark} {gallery} unsafe_retrieved_{way}", 1, 100.0)
            for benchmark, name in _POOLS.items()
            for gallery in ("tuned", "frozen")
            for way, header in (("t2i", "text to image"), ("i2t", "image to text"))
        ),
        """
        SELECT defence, concat_ws(' ', benchmark, protocol, metric) AS name, seed, value, n, ci_low, ci_high
        FROM comparable_scores WHERE benchmark LIKE 'real_pool_%'""",
    ),
    Table(
        "drift",
        "Weights of a tower, projection included, after the last epoch against the undefended ones, adapters merged: "
        "Euclidean length of the change, and its root mean square per parameter in units of 1e-4.",
        (
            Column("text: L2", "text l2", 2, bounds=None),
            Column("vision: L2", "vision l2", 2, bounds=None),
            Column("text: RMS x 1e4", "text rms", 2, 1e4, None),
            Column("vision: RMS x 1e4", "vision rms", 2, 1e4, None),
        ),
        """
        WITH final AS (SELECT * FROM drift_curve QUALIFY epoch = max(epoch) OVER (PARTITION BY defence, seed))
        SELECT defence, tower || ' l2' AS name, seed, l2 AS value, parameters AS n, NULL AS ci_low, NULL AS ci_high
        FROM final
        UNION ALL
        SELECT defence, tower || ' rms', seed, rms, parameters, NULL, NULL FROM final""",
        "parameters",
        "Mean over {seeds} [95 % interval, Student-t over the seeds].",
    ),
)


def numbers(database: duckdb.DuckDBPyConnection, table: Table) -> dict[tuple[str, str], Pooled]:
    """(defence, column name) -> mean over seeds with its interval, for what has been scored."""
    bounds = {column.name: column.bounds for column in table.columns}
    answer = database.execute(
        f"SELECT defence, name, value, n, ci_low, ci_high FROM ({table.sql}) ORDER BY defence, name, seed"
    )
    found: dict[tuple[str, str], list[Measured]] = {}
    for defence, name, value, n, low, high in answer.fetchall():
        if name in bounds and value is not None:
            found.setdefault((defence, name), []).append(Measured(value, n, low, high))
    try:
        return {key: pool(own, bounds[key[1]], same_items=table.same_items) for key, own in found.items()}
    except ValueError as error:
        raise NearsafeError(f"table {table.name!r}: {error}: score the study's defences again") from error


def as_rows(table: Table, found: dict[tuple[str, str], Pooled], defences: Sequence[str]) -> list[dict[str, object]]:
    """The numbers of a table, one row per defence and column, for a CSV."""
    return [
        {
            "defence": defence,
            "name": column.name,
            "value": number.value,
            "ci_low": number.low,
            "ci_high": number.high,
            "seeds": number.seeds,
            "n": number.items,
        }
        for defence in defences
        for column in table.columns
        if (number := found.get((defence, column.name)))
    ]


def render(table: Table, found: dict[tuple[str, str], Pooled], defences: Sequence[str]) -> str:
    """The table in Markdown under a sentence on how to read it; a variant that was not scored shows dashes."""
    shared = {}
    for column in table.columns:
        counts = {number.items for (_, name), number in found.items() if name == column.name}
        shared[column.name] = counts.pop() if len(counts) == 1 else None
    seeds = sorted({number.seeds for number in found.values()})
    header = ["defence"] + [_header(column, shared[column.name]) for column in table.columns]
    body = [
        [name, *(_cell(found.get((name, c.name)), c, shared[c.name] is None, len(seeds) > 1) for c in table.columns)]
        for name in defences
    ]
    count = " to ".join(str(k) for k in sorted({*seeds[:1], *seeds[-1:]}))
    interval = table.intervals.format(seeds=f"{count} training seed{'' if seeds == [1] else 's'}")
    return "\n".join([f"{table.reading} {interval} n: {table.counts} per seed.", "", *markdown(header, body)])


def _header(column: Column, n: int | None) -> str:
    return column.header + (f" (n={n})" if n else "")


def _cell(number: Pooled | None, column: Column, with_n: bool, with_seeds: bool) -> str:
    if number is None:
        return MISSING
    value, low, high = (
        None if x is None else f"{x * column.scale:.{column.digits}f}" for x in (number.value, number.low, number.high)
    )
    text = f"{value} [{low}, {high}]" if low is not None else value
    return text + (f" n={number.items}" if with_n else "") + (f" seeds={number.seeds}" if with_seeds else "")
