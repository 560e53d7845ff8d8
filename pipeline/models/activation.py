"""Does a CLIP's activation fit where its weights come from? The wrong one costs accuracy without any error.

OpenAI's weights were trained with QuickGELU, x * sigmoid(1.702 x); LAION's and DataComp's with GELU. Conversions
between open_clip and transformers can lose the difference (safe_clip.md section 2: in open_clip, replace GELU).
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models import hub

QUICK, PLAIN = "quick_gelu", "gelu"
# First match wins. Tunings keep the activation of what they were tuned from: Safe-CLIP's L/14 is OpenAI's, its H/14 and
# its text tower for Stable Diffusion 2.0 are LAION's.
_ORIGINS = (
    (r"quickgelu", QUICK, "weights named quickgelu"),
    (r"safeclip_(vit-h|sd_2)", PLAIN, "Safe-CLIP's tuning of LAION's H/14"),
    (r"safeclip_vit-l|SafeR_CLIP", QUICK, "a tuning of OpenAI's L/14"),
    (r"(^|/)openai/clip-vit", QUICK, "OpenAI's weights"),
    (r"DFN|metaclip", QUICK, "DFN's and MetaCLIP's weights"),
    (r"laion2b|laion-2b|datacomp|commonpool", PLAIN, "LAION's and DataComp's weights"),
    (r"stable-diffusion-2|stable-diffusion-xl.*text_encoder_2", PLAIN, "LAION's weights"),
)
# (text width, vision width, patch) of H/14, g/14 and bigG/14, which OpenAI never released.
_NOT_OPENAI = {(1024, 1280, 14): "H/14", (1024, 1408, 14): "g/14", (1280, 1664, 14): "bigG/14"}
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Origin:
    """Which activation the weights were trained with, as far as can be said, and what says so."""

    activation: str
    why: str
    certain: bool


def activations(config: Mapping[str, Any]) -> list[str]:
    """The activations of the towers of a CLIP's config.json, sorted, each once; transformers' default is QuickGELU."""
    towers = [config.get(f"{tower}_config") or {} for tower in ("text", "vision")]
    return sorted({str(tower.get("hidden_act", QUICK)) for tower in towers})


def origin(folder: Path, config: Mapping[str, Any]) -> Origin | None:
    """By the hub id that was fetched, the folder's hub path, or the name that config.json keeps; else by the shape.

    None where nothing says it: OpenAI's and LAION's B/32 and L/14 have the same shape.
    """
    record = hub.find_record(folder)
    kept = [config.get("_name_or_path"), (config.get("text_config") or {}).get("_name_or_path")]
    for name in [record.id if record else None, hub.hub_id(folder), *kept]:
        for pattern, activation, why in _ORIGINS:
            if isinstance(name, str) and re.search(pattern, name, re.IGNORECASE):
                return Origin(activation, f"{why} ({name})", True)
    text, vision = (config.get(f"{tower}_config") or {} for tower in ("text", "vision"))
    shape = (text.get("hidden_size", 512), vision.get("hidden_size", 768), vision.get("patch_size", 32))
    if shape in _NOT_OPENAI:
        return Origin(PLAIN, f"{_NOT_OPENAI[shape]}, which OpenAI never released and LAION trained", False)
    return None


def disagreement(folder: Path, config: Mapping[str, Any]) -> str | None:
    """One line where the configured activation is not the one of the weights' training; None where it fits."""
    found, known = activations(config), origin(folder, config)
    if len(found) > 1:
        return f"{folder}: the towers have different activations, {' and '.join(found)}: no published CLIP has"
    if known is None or found == [known.activation]:
        return None
    doubt = "" if known.certain else ", unless these are DFN's or MetaCLIP's weights"
    return (
        f"{folder}: hidden_act is {found[0]}, but {known.why} were trained with {known.activation}{doubt}: correct "
        "hidden_act of both towers in a copy of the folder"
    )


def warn_once(folder: Path, config: Mapping[str, Any]) -> None:
    """A Python warning where activation and origin disagree, once per process and folder."""
    text = disagreement(folder, config)
    if text and (key := (str(Path(folder).absolute()), text)) not in _warned:
        _warned.add(key)
        warnings.warn(text, UserWarning, stacklevel=3)
