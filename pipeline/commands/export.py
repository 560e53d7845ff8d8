"""nearsafe export: a defended checkpoint as a folder that anybody can load, with its model card."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.completing import defences


class Part(StrEnum):
    """The folders that an export may have: PARTS of pipeline/exporting_parts.py, which is too heavy to import here."""

    clip = "clip"
    text = "text"
    vision = "vision"
    adapter = "adapter"
    pipeline = "pipeline"


def export(
    defence: Annotated[
        str, typer.Argument(help="An entry of `defences` in params.yaml.", autocompletion=defences, show_default=False)
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to write; it appears whole.")],
    seed: Annotated[
        int | None, typer.Option(help="Training seed; default: the first of params.yaml.", show_default=False)
    ] = None,
    part: Annotated[
        list[Part] | None,
        typer.Option(
            "--part", help="What to write; may be given several times. Default: clip and pipeline.", show_default=False
        ),
    ] = None,
    diffusion: Annotated[
        bool, typer.Option("--diffusion/--no-diffusion", help="By default: with or without the pipeline.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="Directory of all stages' outputs.")] = Path("data"),
) -> None:
    """Write a defended checkpoint to a folder, with a model card.

    DIR/clip is a plain transformers CLIP, DIR/text and DIR/vision its towers alone, DIR/adapter the LoRA adapter alone
    for peft, DIR/pipeline a plain diffusers pipeline with the defended text tower, DIR/README.md the card: what was
    measured, how it was made, how to load it. Weights are copied.

    Exit status: 0 written; 2 no such defence, not trained or scored yet, no such part of it, or DIR is in use.
    """
    from pipeline.exporting import DEFAULT, export_defence

    chosen = tuple(one.value for one in part) if part else DEFAULT if diffusion else ("clip",)
    done = export_defence(params, defence, data, to, seed, chosen, force)
    parts = f"{', '.join(done.parts)} and model card"
    print(f"{done.folder}: {parts} of {done.defence}, training seed {done.seed}; model hash {done.hash} as scored")
