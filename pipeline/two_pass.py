"""The gradient of a loss over a whole batch whose embeddings were made by parts: GradCache (Gao et al. 2021).

A contrastive term needs every embedding of the batch at once, so gradients of parts cannot just be added up. Two passes
can: the first encodes all parts without keeping activations, the loss gives the gradient of each embedding, and the
second encodes each part again and carries that gradient into the weights. Exact but for the order of sums, for any term
that is a function of the embeddings; it costs one forward more. With a dropout, both passes of a part draw the same.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.defences.protocol import Terms
from pipeline.team import Team

_FIXED = "ref_"  # embeddings of these names carry no gradient


def two_pass(
    feed: Any,
    model: nn.Module,
    index: Any,
    count: int,
    parts: Sequence[Any],
    drawn: Callable[[int], AbstractContextManager[None]],
    loss: Callable[[Any], Terms],
    team: Team | None,
) -> Terms:
    """Terms of a batch of `count` pairs; the gradient of their weighted sum is left in the parameters.

    `parts`: what `feed.load` gave for each part of this process's share, in order. `drawn(n)`: precision and randomness
    of part n. The caller clears gradients.
    """
    with torch.no_grad():
        encoded = []
        for number, part in enumerate(parts):
            with drawn(number):
                encoded.append(feed.encode(model, part))
    mine = {name: torch.cat([one[name] for one in encoded]) for name in encoded[0]}
    whole = {name: _of_all(name, value, feed.shared, count, team) for name, value in mine.items()}
    for name, value in whole.items():
        value.requires_grad_(not name.startswith(_FIXED))
    terms = loss(feed.assemble(index, whole))
    sum(weight * value for weight, value in terms.values()).backward()
    gradients = {name: _of_mine(name, whole[name].grad, mine[name], feed.shared, team) for name in mine}
    done = dict.fromkeys(mine, 0)
    for number, part in enumerate(parts):
        with drawn(number):
            again = feed.encode(model, part)
        _backward(again, gradients, done)
    if team is not None:
        team.add_gradients(parameter for parameter in model.parameters() if parameter.requires_grad)
    return terms


def _of_all(name: str, mine: Tensor, shared: Sequence[str], count: int, team: Team | None) -> Tensor:
    """The embeddings of the whole batch, of this process's own. What is shared is encoded by the first process."""
    if team is None:
        return mine.detach()
    return team.first(mine) if name in shared else team.gather(mine, count)


def _of_mine(
    name: str, gradient: Tensor | None, mine: Tensor, shared: Sequence[str], team: Team | None
) -> Tensor | None:
    """This process's rows of a gradient; rows that only fill a share have none."""
    if gradient is None or team is None:
        return gradient
    if name in shared:
        return gradient if team.rank == 0 else torch.zeros_like(gradient)
    found = torch.zeros_like(mine)
    part = gradient[team.rank * len(mine) : (team.rank + 1) * len(mine)]
    found[: len(part)] = part
    return found


def _backward(again: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None], done: dict[str, int]) -> None:
    """Carry each embedding's gradient into the weights; `done` counts the rows of each name so far."""
    tensors, wanted = [], []
    for name, value in again.items():
        start = done[name]
        done[name] += len(value)
        if gradients[name] is not None and value.requires_grad and len(value):
            tensors.append(value)
            wanted.append(gradients[name][start : start + len(value)])
    torch.autograd.backward(tensors, wanted)
