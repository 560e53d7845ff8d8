"""A memory that is full, in this process and in those of a team: a module that each imports."""

from functools import wraps

import torch

from pipeline import train_defence
from pipeline.memory import OutOfMemory
from pipeline.training_set import PooledFeed


def fill(encode, pairs, at=(), error=torch.OutOfMemoryError):
    """`encode` of a feed that raises over more than so many pairs, and in the calls numbered `at`."""
    seen = []

    @wraps(encode)
    def small(feed, model, inputs):
        ids = inputs[0] if isinstance(inputs, tuple) else inputs.ids if inputs.ids is not None else inputs.images
        held = inputs[1][0] if isinstance(inputs, tuple) else len(ids) // 2
        seen.append(held)
        if held > pairs or len(seen) in at:
            raise error()
        return encode(feed, model, inputs)

    return small


def member(team, defence, knobs, *rest):
    """As a member of a training team whose second process has room for two pairs."""
    if team.rank == 1:
        PooledFeed.encode = fill(PooledFeed.encode, 2)
    train_defence._member(team, defence, knobs, *rest)


def lacking(team):
    raise OutOfMemory("no room")
