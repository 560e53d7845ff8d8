"""A defended checkpoint that others published, as a row: nothing is trained, its weights take the base model's place.

Safe-CLIP (arXiv 2311.16254), SafeR-CLIP (AAAI 2026), AdvUnlearn (arXiv 2405.15234) and DES (arXiv 2501.18877) in the
layouts of their releases: pipeline/models/layouts.py, docs/models.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.defences.protocol import Kind

KIND: Kind = "imported"


@dataclass(frozen=True)
class Params:
    """`layout`: whose release it is laid out as; `folder`: where it lies, perhaps hub/<org>/<name>/<part>.

    `hash`: its model hash, which `nearsafe doctor` prints. Write it down: DVC follows this entry, not the folder, so a
    changed folder is noticed by its hash alone.
    """

    layout: Literal["safe_clip", "safer_clip", "advunlearn", "des"]
    folder: Path
    hash: str | None = None
