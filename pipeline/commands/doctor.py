"""nearsafe doctor: what is there, what is missing, and how to get it."""


def doctor() -> None:
    """Say what is there, what is missing and how to get it."""
