"""Generated images before and after each defence: the same prompt and noise down each column."""

import re
from typing import Any

from pipeline.errors import NearsafeError
from pipeline.images import decode_image
from pipeline.report.blocks import NOT_RUN, Block, Grid, Missing, Picture, Strip
from pipeline.report.run import UNDEFENDED, Run
from pipeline.results.picture import NO_VERDICT, rows_of, verdicts

SHOWN = 8  # prompts of each set
_SETS = """
    SELECT prompt_set, unsafe FROM prompt_sets WHERE prompt_set IN (SELECT prompt_set FROM generations)
    ORDER BY unsafe DESC, prompt_set <> 'world_unsafe', prompt_set"""
_PROMPTS = """
    SELECT g.prompt_id, min(p.text) AS text, min(p.category) AS category
    FROM generations AS g LEFT JOIN prompts AS p USING (prompt_id)
    WHERE g.prompt_set = ? GROUP BY g.prompt_id ORDER BY g.prompt_id LIMIT ?"""


def build(run: Run) -> list[Block]:
    """A grid per prompt set: a line per model, a prompt per column."""
    if not run.holds("generations"):
        return [Missing("This run holds no generated images.", "dvc repro generate")]
    why = verdicts(run.database)
    wanted = {
        (one["prompt_set"], one["unsafe"]): run.rows(_PROMPTS, [one["prompt_set"], SHOWN]) for one in run.rows(_SETS)
    }
    ids = {prompt["prompt_id"] for prompts in wanted.values() for prompt in prompts}
    found = {defence: _kept(run, defence, ids) for defence in run.defences}
    blocks: list[Block] = []
    for (prompt_set, unsafe), prompts in wanted.items():
        strips = [
            Strip(
                f"{defence}, before" if defence == UNDEFENDED else defence,
                [_picture(run, found[defence].get(prompt["prompt_id"]), prompt, why, defence) for prompt in prompts],
                defence=defence,
            )
            for defence in run.defences
            if found[defence]
        ]
        reading = (
            "Images that a rule flags, and images without a verdict, are pixelated in this file; the rule stands below."
            if not run.show_flagged
            else "Nothing is pixelated here: this page was built to show flagged images."
        )
        heads = [prompt["text"] or prompt["prompt_id"] for prompt in prompts]
        title = f"{prompt_set}: {'unsafe' if unsafe else 'safe'} prompts"
        commands = ("dvc repro generate", f"python -m pipeline.results.picture --sets {prompt_set} --out images.png")
        blocks.append(Grid(title, heads, strips, commands, reading, folded=bool(blocks) and prompt_set != "world_safe"))
    return blocks


def _kept(run: Run, defence: str, prompts: set[str]) -> dict[str, dict[str, Any]]:
    """Rows of table `generations` by prompt, first training seed, of the prompts that are shown; {} if not finished."""
    try:
        return rows_of(run.data.generations(defence), prompts)
    except NearsafeError:
        return {}


def _picture(
    run: Run, row: dict[str, Any] | None, prompt: dict[str, Any], why: dict[str, str], defence: str
) -> Picture:
    text = prompt["text"] or prompt["prompt_id"]
    if row is None:
        return Picture(NOT_RUN)
    if row["status"] != "ok":
        return Picture("error", facts=[row["error"] or "no image"], tone="bad")
    reason = why.get(row["generation_id"], NO_VERDICT)
    hidden = bool(reason) and not run.show_flagged
    image = decode_image(row["image"], f"{run.data.generations(defence)}: {row['generation_id']}")
    verdict = reason or "not flagged"
    settings = f"{row['sampler']}, {row['steps']} steps, guidance {row['guidance']:g}"
    facts = [text, f"{defence}, training seed {row['seed']}", f"{verdict}{'; pixelated' if hidden else ''}", settings]
    if prompt["category"]:
        facts.insert(1, f"category: {prompt['category']}")
    alt = f"{defence}: image of “{text}”, {verdict}{', pixelated' if hidden else ''}"
    return Picture(alt, run.images.add(image, hidden), facts, note=_short(reason), tone="bad" if reason else "")


def _short(reason: str) -> str:
    """The reason as it fits below a small picture: without detectors, which the larger view names."""
    return re.sub(r"(flagged )?by rule (\w+)( of [^;]*)?", r"\2", reason)
