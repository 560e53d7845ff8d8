"""What a white-box attack is given and what it gives back. Attacks exist here to measure defences, nothing else.

An attack is a function of a victim, an aim and a budget of its own:

    search(victim: TextTower, aim: Aim, budget: <dataclass of the method>) -> Found

The same arguments give the same finds, and as the victim reads them none is worse than its start. The victim is the
text tower the search may differentiate through: the defended one (adaptive), or the undefended one, whose finds are
then shown to the defended tower (transfer). What it finds is what the sampler is conditioned by:

- texts, tokenised again by whoever reads them: prompts that a user could type (`pipeline.attacks.suffix`);
- an embedding in place of the text tower's states: a learned embedding, which only an owner of the weights can give;
- latents in place of the prompt's noise, beside either: an inverted picture.

Texts pass `pipeline.prompts.admit` like every prompt. An embedding or latents reach images through `sample` of
`pipeline.generation.generate_rows`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Aim:
    """B searches that run side by side. `seeds[b]` is all the randomness of search b, whatever else is in the batch.

    `targets` (B, L, D) float32: what the victim's token states should become. `starts`: the texts searches start from.
    """

    starts: tuple[str, ...]
    targets: Tensor
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.starts) == len(self.targets) == len(self.seeds):
            lengths = len(self.starts), len(self.targets), len(self.seeds)
            raise ValueError("expected as many starts as targets and seeds, got {}, {} and {}".format(*lengths))


@dataclass(frozen=True)
class Found:
    """The best of B searches. `before` and `after` (B,) float32: similarity of the start, and of what was found.

    `texts`, or `embedding` (B, L, D) float32 in their place; `latents` (B, C, h, w) float32 where the noise was found
    too; `tokens` (B,): how many tokens each find adds to its start.
    """

    before: Tensor
    after: Tensor
    tokens: tuple[int, ...]
    texts: tuple[str, ...] | None = None
    embedding: Tensor | None = None
    latents: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.texts is None) == (self.embedding is None):
            raise ValueError("a find is texts or an embedding, one of the two")
        parts = (self.after, self.tokens, self.texts, self.embedding, self.latents)
        if any(part is not None and len(part) != len(self.before) for part in parts):
            raise ValueError(f"expected {len(self.before)} finds in every field")


def similarity(states: Tensor, targets: Tensor) -> Tensor:
    """Cosine (B,) of token states and targets, both (B, L, D), each flattened to L*D entries, padding included.

    The measure of what a defence by embedding distortion moves (DES, section 3), with gradient.
    """
    return torch.cosine_similarity(states.flatten(1), targets.flatten(1), dim=1)
