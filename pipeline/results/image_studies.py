"""Tables of the studies whose numbers come from images: the ablation of DES, and the grid of attacks."""

from collections.abc import Sequence
from dataclasses import replace

import duckdb

from pipeline.results.report import MISSING, markdown
from pipeline.results.studies import INTERVAL, Column, Table

DES_ABLATION = (
    Table(
        "des_ablation",
        "Images from the world's hazard prompts and safe prompts. ASR and false positives: share in which the world's "
        "detector finds a hazard. CLIP score: 100 * cosine by the undefended CLIP. Frechet distance: on the detector's "
        "features against the world's safe images, never to be called FID. All but CLIP score: lower is better.",
        (
            Column("ASR", "asr"),
            Column("false positives", "false_positive_rate"),
            Column("CLIP score", "clip_score", 2, bounds=None),
            Column("Frechet distance", "frechet_distance", 2, bounds=(0.0, float("inf"))),
        ),
        "SELECT defence, name, seed, value, n, ci_low, ci_high FROM headline",
        "images",
        same_items=False,
    ),
    Table(
        "des_separation",
        "Token states, flattened, of the same prompts, against those of the undefended text tower. Unsafe, nearest is "
        "safe: share of unsafe prompts whose nearest undefended state, their own included, is that of a safe prompt. "
        "The cosines: to the nearest safe one, and to the prompt's own undefended state.",
        (
            Column("unsafe: nearest is safe", "unsafe nearest_is_safe"),
            Column("unsafe: cosine, nearest safe", "unsafe cosine_to_nearest_safe", bounds=(-1.0, 1.0)),
            Column("unsafe: cosine, itself", "unsafe cosine_to_itself", bounds=(-1.0, 1.0)),
            Column("safe: cosine, itself", "safe cosine_to_itself", bounds=(-1.0, 1.0)),
        ),
        """
        SELECT defence, protocol || ' ' || metric AS name, seed, value, n, ci_low, ci_high
        FROM comparable_scores WHERE benchmark = 'separation'""",
        "prompts",
    ),
)
ATTACK_TABLES = ("attack_grid", "attack_as_asked", "attack_gain", "attack_search")
# The attacks that every defence meets without a search, in the order of the tables; white-box ones stand behind them.
_FIRST = ("world_unsafe", "world_paraphrased", "world_obfuscated", "world_indirect")
INVENTED = "world_invented"  # a word that means nothing in the hazard's place: a control, no set of attacks
BASELINE = "des"  # what the extensions of DES are compared with
# For tables whose reading says which item interval they have.
_NAMED = INTERVAL.replace("Wilson or bootstrap interval", "interval")
_SHOWN = "metric IN ('asr', 'false_positive_rate') AND detector LIKE 'world%' AND benchmark LIKE 'generation/%'"


def attack_tables(database: duckdb.DuckDBPyConnection) -> tuple[Table, ...]:
    """The tables of the attack study, a column for each attack and each safe set that was scored."""
    columns = _columns(database)
    return _grid(columns, _left_out(database)), _as_asked(columns), _gain(columns), _search(_searched(database))


def _grid(columns: Sequence[Column], left_out: str) -> Table:
    """Share of images with any hazard, per attack and safe set."""
    invented = (
        " Hazard drawn for an invented word: a made-up word stands in the hazard's place. Such images are no mistakes "
        "of the detector, but hazards that the small generator draws for words that it does not know."
    )
    return Table(
        "attack_grid",
        "ASR: share of images in which the world's detector finds a hazard, per attack. Prompt sets: plain hazard "
        "prompts, other wordings, obfuscated spellings, indirect descriptions. White-box: a search in the defended "
        "text tower, or (transfer) in the undefended one. False positives: the same share for safe prompts near "
        "hazards. Lower is better."
        + (invented if any(column.name.endswith(f" {INVENTED}") for column in columns) else "")
        + f" {left_out}",
        tuple(columns),
        f"""
        SELECT defence, metric || ' ' || substr(benchmark, 12) AS name, seed, value, n, ci_low, ci_high
        FROM comparable_scores WHERE {_SHOWN}""",
        "images",
        same_items=False,
    )


def _as_asked(columns: Sequence[Column]) -> Table:
    """Share of images with the hazard that the prompt asked for: what a generator draws at random is not in it."""
    return Table(
        "attack_as_asked",
        "Share of images that show the very hazard that the prompt asked for, by the world's detector. The small "
        "generator draws some hazard for many a word that it does not know; that is no success of an attack.",
        tuple(column for column in columns if column.name.startswith("asr ")),
        """
        SELECT defence, 'asr ' || substr(benchmark, 12) AS name, seed, value, n, ci_low, ci_high
        FROM comparable_scores WHERE metric = 'asr_as_asked' AND detector LIKE 'world%'""",
        "images",
        same_items=False,
    )


def _gain(columns: Sequence[Column]) -> Table:
    """Paired difference to the baseline. With `more` and `fewer` the pairs in which one image alone is flagged:

        value = (more - fewer) / n
        interval = (more - fewer) / (n + 2) +- z sqrt(more + fewer + 1 - (more - fewer)^2 / (n + 2)) / (n + 2)

    Agresti and Min 2005: half a pair is added to each cell of the 2 x 2 table. A pair with a failed image is left out.
    """
    return Table(
        "attack_gain",
        f"Share of attack_grid less that of `{BASELINE}`, paired by prompt and training seed: below 0, fewer hazards "
        f"than `{BASELINE}` lets through. Any hazard counts: on world_obfuscated the gain mixes in those that the "
        "small generator draws for words that it does not know, after a white-box search others than the prompt asked "
        "for; read attack_as_asked there. That share is not paired: the labels of what a prompt asked for are not in "
        "the data of this study. Item interval: Agresti and Min 2005; not a point where no image differs.",
        tuple(replace(column, bounds=(-1.0, 1.0)) for column in columns),
        f"""
        WITH images AS (
            SELECT f.defence, f.seed, f.prompt_set, g.prompt_id, f.flagged,
                   CASE WHEN s.unsafe THEN 'asr ' ELSE 'false_positive_rate ' END || f.prompt_set AS name
            FROM flags AS f
            JOIN generations AS g ON g.generation_id = f.item_id
            JOIN prompt_sets AS s ON s.prompt_set = f.prompt_set
            WHERE f.rule = 'hazard'
        ), paired AS (
            SELECT a.defence, a.name, a.seed, count(*) AS n,
                   count(*) FILTER (WHERE a.flagged AND NOT b.flagged) AS more,
                   count(*) FILTER (WHERE b.flagged AND NOT a.flagged) AS fewer
            FROM images AS a
            JOIN images AS b
              ON b.defence = '{BASELINE}' AND b.seed = a.seed AND b.name = a.name AND b.prompt_id = a.prompt_id
            WHERE a.defence <> '{BASELINE}'
            GROUP BY ALL
        ), moved AS (
            SELECT *, (more - fewer) / (n + 2) AS centre,
                   1.959964 * sqrt(more + fewer + 1 - (more - fewer) ^ 2 / (n + 2)) / (n + 2) AS half
            FROM paired
        )
        SELECT defence, name, seed, (more - fewer) / n AS value, n,
               centre - half AS ci_low, centre + half AS ci_high
        FROM moved""",
        "prompts",
        _NAMED,
        same_items=False,
    )


def _search(searched: Sequence[str]) -> Table:
    """Similarity with which each white-box search began and ended; what was refused is in no mean."""
    return Table(
        "attack_search",
        "Cosine of flattened token states: what the search ended with (before: started with) in the defended text "
        "tower, against the hazard prompt in the undefended one. 1: the defence is undone. A transfer search saw "
        "the undefended tower alone. Mean over prompts (normal interval).",
        tuple(
            Column(f"{attack}: {moment}", f"{attack} {moment}", bounds=(-1.0, 1.0))
            for attack in searched
            for moment in ("before", "after")
        ),
        """
        WITH similarities AS (
            SELECT defence, seed, attack || ' before' AS name, similarity_before AS x FROM attacks WHERE status = 'ok'
            UNION ALL
            SELECT defence, seed, attack || ' after', similarity_after FROM attacks WHERE status = 'ok'
        ), means AS (
            SELECT defence, name, seed, avg(x) AS value, count(*) AS n,
                   1.959964 * coalesce(stddev_samp(x), 0) / sqrt(count(*)) AS half
            FROM similarities GROUP BY ALL
        )
        SELECT defence, name, seed, value, n, value - half AS ci_low, value + half AS ci_high FROM means""",
        "prompts",
        _NAMED,
        same_items=False,
    )


def published(database: duckdb.DuckDBPyConnection) -> str:
    """What DES and the CMU report printed, in tables of their own: other data, models and measures than the world's."""
    des = _printed(database, "DES", {"ASR": "ASR, %", "FID": "FID", "CLIP score": "CLIP score (L/14)"}, "DES%")
    cmu = _printed(
        database,
        "CMU report",
        {
            "images with any NudeNet box": "benign images with any box, %",
            "FID (torchvision Inception)": "FID (torchvision)",
            "CLIP score (B/32)": "CLIP score (B/32)",
        },
        "%",
    )
    return "\n".join(
        [
            "Printed by the papers, on real images; none of it compares with a number of the world. DES on SD v1.5; "
            "ASR: mean of four black-box attacks.",
            "",
            *des,
            "",
            'The CMU report, whose "ASR" is a false-positive rate of a detector on benign COCO prompts; its FID, CLIP '
            "model and resolution are others than those of DES.",
            "",
            *cmu,
        ]
    )


def _printed(database: duckdb.DuckDBPyConnection, paper: str, metrics: dict[str, str], methods: str) -> list[str]:
    """One line per source and method of a paper, a column per metric; a dash where nothing was printed.

    Methods that end with a number follow each other by that number: alpha 50 stands before alpha 100.
    """
    answer = database.execute(
        """
        SELECT source, method, metric, value FROM published
        WHERE paper = ? AND method LIKE ? AND method NOT LIKE '%(FLUX)' AND benchmark IN (
            'mean of 4 attacks', 'COCO 10k', 'COCO 10k, 640 px') AND source <> 'Table 3'
        ORDER BY regexp_extract(source, '[0-9]+')::INT, regexp_replace(method, '[0-9.]+$', ''),
                 TRY_CAST(regexp_extract(method, '[0-9.]+$') AS DOUBLE), method""",
        [paper, methods],
    ).fetchall()
    cells = {(source, method, metric): value for source, method, metric, value in answer}
    lines = dict.fromkeys((source, method) for source, method, _, _ in answer)
    body = [
        [f"{source}: {method}", *(_number(cells.get((source, method, metric))) for metric in metrics)]
        for source, method in lines
    ]
    return markdown(["printed in", *metrics.values()], body)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _columns(database: duckdb.DuckDBPyConnection) -> list[Column]:
    """What the grid can show: attacks, then false positives, then the control with invented words."""
    sql = f"SELECT DISTINCT metric, substr(benchmark, 12) FROM comparable_scores WHERE {_SHOWN}"
    answer = database.execute(sql).fetchall()
    attacks = sorted((name for metric, name in answer if metric == "asr"), key=_place)
    safe = sorted((name for metric, name in answer if metric != "asr"), key=lambda name: (name == INVENTED, name))
    return [Column(name, f"asr {name}") for name in attacks] + [
        Column(
            "hazard drawn for an invented word" if name == INVENTED else f"false positives, {name}",
            f"false_positive_rate {name}",
        )
        for name in safe
    ]


def _left_out(database: duckdb.DuckDBPyConnection) -> str:
    """A sentence on what has no verdict: finds that were refused, searches without a start, images that failed."""
    searched, refused, unsearched = database.execute(
        "SELECT count(*), count(*) FILTER (status = 'refused'), count(*) FILTER (status = 'error') FROM attacks"
    ).fetchone()
    images, failed = database.execute("""
        SELECT count(DISTINCT item_id), count(DISTINCT item_id) FILTER (status = 'error')
        FROM detections WHERE detector LIKE 'world%'""").fetchone()
    return (
        f"Not in n, over all defences and training seeds: {refused} of {searched} searched prompts that a prompt "
        f"filter refused, {unsearched} that a search could not start from, and {failed} of {images} images that failed."
    )


def _place(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _searched(database: duckdb.DuckDBPyConnection) -> Sequence[str]:
    return [row[0] for row in database.execute("SELECT DISTINCT attack FROM attacks ORDER BY attack").fetchall()]
