"""What processes of a team do in a test: a module of its own, because each of them imports it."""

import os
import signal
import time

import torch

from pipeline.errors import NearsafeError
from pipeline.team import Team


def die(team: Team, how: str) -> None:
    """The second process is killed, or raises; the others wait for it."""
    if team.rank == 1:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise NearsafeError("this is what went wrong")
    team.gather(torch.zeros(1), 2)


def stay(team: Team, seconds: float) -> None:
    """Exchange something, so that all connections exist, then stay, so that others can see them."""
    team.gather(torch.zeros(1), team.size)
    time.sleep(seconds)
