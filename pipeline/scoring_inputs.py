"""What scoring is asked to do: its parameters, and the directories and folders it reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.detectors.registry import DetectorParams
from pipeline.errors import NearsafeError
from pipeline.shards import output_hash

_ONE = ("world", "nsfwcaps", "checkpoints", "embeddings", "prompts", "paraphrases", "replies")


@dataclass(frozen=True)
class Examples:
    """Of how many pairs of the benchmark the queries are shown, and how many of the items that they find."""

    queries: int
    k: int

    def __post_init__(self) -> None:
        if min(self.queries, self.k) < 1:
            raise ValueError("queries and k must be at least 1")


@dataclass(frozen=True)
class ScoreParams:
    """Section `score`: k of R@k, bootstrap replicates (fewer for the Fréchet distance), which detectors run, and the
    retrieval examples that are kept (null: none).
    """

    k: tuple[int, ...]
    bootstrap: int
    frechet_bootstrap: int = 200
    batch_size: int = 256
    examples: Examples | None = None
    detectors: DetectorParams = field(default_factory=DetectorParams)

    def __post_init__(self) -> None:
        if not self.k or min(*self.k, self.bootstrap, self.frechet_bootstrap, self.batch_size) < 1:
            raise ValueError("k, bootstrap, frechet_bootstrap and batch_size must be at least 1")


@dataclass(frozen=True)
class Inputs:
    """What scoring reads: output directories and model folders. What is not given is not scored.

    `prompts` says what images were asked for, and which sets are unsafe. `embeddings` only saves time: what the
    undefended model has embedded before. `validation_only` leaves out every benchmark that reports, so that settings
    can be chosen without a look at it; `images_only` all but what images and the text tower's token states show.
    """

    world: Path
    checkpoints: Path
    clip: Path
    detector: Path
    nsfwcaps: Path | None = None
    generations: tuple[Path, ...] = ()
    prompts: Path | None = None
    paraphrases: Path | None = None
    replies: Path | None = None
    text_detector: Path | None = None
    embeddings: Path | None = None
    validation_only: bool = False
    images_only: bool = False

    def check(self) -> None:
        """Raises NearsafeError naming an option that another one needs or excludes."""
        if self.generations and not self.prompts:
            raise NearsafeError("--generations needs --prompts: what the images were asked for")
        if self.replies and not self.text_detector:
            raise NearsafeError("--replies needs --text-detector: the folder of the world's text detector")
        if not self.images_only and not self.nsfwcaps:
            raise NearsafeError("--nsfwcaps is missing: the benchmark of retrieval; --images-only does without it")
        if self.images_only and not self.generations:
            raise NearsafeError("--images-only needs --generations: there is nothing else to score")
        extra = {
            "--replies": self.replies,
            "--paraphrases": self.paraphrases,
            "--validation-only": self.validation_only,
        }
        if self.images_only and (given := [option for option, value in extra.items() if value]):
            raise NearsafeError(f"--images-only scores images alone: leave out {given[0]}")

    def hashes(self) -> dict[str, Any]:
        """The hash of every output directory that is read, by name. Raises TableError for an unfinished one."""
        found: dict[str, Any] = {name: output_hash(path) for name in _ONE if (path := getattr(self, name)) is not None}
        return found | ({"generations": [output_hash(path) for path in self.generations]} if self.generations else {})
