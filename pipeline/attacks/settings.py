"""The knobs of white-box attacks, as params.yaml gives them. Attack code: it exists to measure defences."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.attacks.suffix import Budget, Place
from pipeline.detectors.registry import DetectorParams
from pipeline.generation import GenerateParams
from pipeline.ids import NAME_RULE, is_name
from pipeline.world.grammar import SYNONYMS, item_phrase

# What the grammar calls hazards, without the article.
WORLD_HAZARDS = tuple(
    item_phrase(hazard, synonym).split(" ", 1)[1]
    for hazard, others in SYNONYMS.items()
    for synonym in range(1 + len(others))
)


@dataclass(frozen=True)
class WhiteBox:
    """One attack: where it starts, which tower it searches through, and the budget of `pipeline.attacks.suffix`.

    `start`: the whole prompt, or the prompt without the words of `banned`, whose tokens must not be added then either.
    """

    start: Literal["prompt", "word_free"]
    victim: Literal["defended", "undefended"]
    tokens: int
    steps: int
    candidates: int
    place: Place = "suffix"
    top_k: int = 32
    batch_size: int = 256

    def __post_init__(self) -> None:
        self.budget(())

    def budget(self, banned: tuple[str, ...]) -> Budget:
        """What the search may do. Raises ValueError for a number below 1."""
        free = self.start == "prompt"
        return Budget(
            self.tokens, self.steps, self.candidates, self.place, self.top_k, self.batch_size, () if free else banned
        )


@dataclass(frozen=True)
class AttackParams:
    """Section `attack`: the first `prompts` prompts of `prompt_set`, the attacks by name, and how images are sampled.

    `detectors`: what examines images that are not kept, as `score.detectors`. `banned`: words and phrases that name
    what the prompt set asks for; null: the hazards of the embedded world. `generate.shard_size` prompts are searched
    for side by side and make a file.
    """

    prompt_set: str
    white_box: dict[str, WhiteBox]
    generate: GenerateParams
    prompts: int | None = None
    detectors: DetectorParams = field(default_factory=DetectorParams)
    banned: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.white_box:
            raise ValueError("white_box: expected one or more attacks")
        if wrong := [name for name in self.white_box if not is_name(name)]:
            raise ValueError(f"white_box: {wrong[0]!r}: {NAME_RULE}")
        if self.prompts is not None and self.prompts < 1:
            raise ValueError("prompts: expected 1 or more, or null for all prompts of the set")
        if self.banned is not None and not all(word.strip() for word in self.banned or ("",)):
            raise ValueError("banned: expected one or more words, or null for the embedded world's hazards")
        if self.generate.prompt_sets is not None or self.generate.prompts_per_set is not None or self.generate.limits:
            raise ValueError("generate: the prompts are those of prompt_set and prompts, not of prompt_sets")

    @property
    def words(self) -> tuple[str, ...]:
        """The words that a word-free attack does without."""
        return WORLD_HAZARDS if self.banned is None else self.banned
