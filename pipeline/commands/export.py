"""nearsafe export: a defended checkpoint as a folder that anybody can load, with its model card."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.completing import defences


def export(
    defence: Annotated[
        str, typer.Argument(help="An entry of `defences` in params.yaml.", autocompletion=defences, show_default=False)
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to write; it appears whole.")],
    seed: Annotated[
        int | None, typer.Option(help="Training seed; default: the first of params.yaml.", show_default=False)
    ] = None,
    diffusion: Annotated[
        bool, typer.Option("--diffusion/--no-diffusion", help="With or without the text-to-image pipeline.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="Directory of all stages' outputs.")] = Path("data"),
) -> None:
    """Write a defended checkpoint to a folder, with a model card.

    DIR/clip is a plain transformers CLIP, DIR/pipeline a plain diffusers Stable Diffusion pipeline with the defended
    text tower, DIR/README.md the card: what was measured, how it was made, how to load it. Weights are copied.

    Exit status: 0 written; 2 no such defence, not trained or scored yet, or DIR is in use.
    """
    from pipeline.exporting import export_defence

    done = export_defence(params, defence, data, to, seed, diffusion, force)
    parts = "clip, pipeline and model card" if done.pipeline else "clip and model card"
    print(f"{done.folder}: {parts} of {done.defence}, training seed {done.seed}; model hash {done.hash} as scored")
