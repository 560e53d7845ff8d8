"""The rewriters by `kind` in params.yaml; each backend is imported only where it is chosen."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pipeline.precision import Precision
from pipeline.rewriting.protocol import Rewriter
from pipeline.rewriting.wording import Wording

# What the request itself says; a parameter must not say it again.
_FIXED = ("messages", "model", "stream", "n")


@dataclass(frozen=True)
class Grammar:
    """The embedded world's grammar: exact edits of captions that it wrote itself."""

    kind: Literal["grammar"] = "grammar"


@dataclass(frozen=True)
class Given:
    """No rewriting: the world's own pairs of the splits are the benchmark (`pipeline.nsfwcaps_given`)."""

    kind: Literal["given"]


@dataclass(frozen=True)
class Chat:
    """A `transformers` chat model folder on this machine, greedy.

    `template` goes to the tokenizer's chat template ({enable_thinking: false} for models that think aloud).
    """

    kind: Literal["chat"]
    folder: Path
    batch_size: int = 16
    max_new_tokens: int = 96
    precision: Precision = "auto"
    template: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.batch_size, self.max_new_tokens) < 1:
            raise ValueError("batch_size and max_new_tokens must be at least 1")


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint. `url` ends before `/chat/completions`; `key_env` names an environment variable.

    `request` goes into the body of every request as it is, over the defaults {temperature: 0, max_tokens: 96}. The
    URL is part of the output's spec and of error texts: it holds no user name, password or query. A key goes over https
    only, or to this machine.
    """

    kind: Literal["endpoint"]
    url: str
    model: str
    key_env: str | None = None
    timeout_seconds: float = 60.0
    retries: int = 5
    backoff_seconds: float = 1.0  # before the first retry; doubles, at most 60
    concurrency: int = 4
    request: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        host = _checked_host(self.url)
        if self.key_env is not None and not self.url.startswith("https://") and not is_loopback(host):
            raise ValueError("a key (key_env) is sent to https:// addresses only, or to this machine")
        times = 0 < self.timeout_seconds < inf and 0 <= self.backoff_seconds < inf
        if not times or self.retries < 0 or self.concurrency < 1:
            raise ValueError(
                "timeout_seconds and concurrency must be positive, backoff_seconds and retries not negative"
            )
        if fixed := [name for name in _FIXED if name in self.request]:
            raise ValueError(f"request.{fixed[0]} is set by the rewriter itself")


def is_loopback(host: str) -> bool:
    """`host` is this machine, by name or address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_host(url: str) -> str:
    """The host of a URL. Raises ValueError, without the URL's text, for one that may not be kept or shown."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("url must begin with http:// or https://")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("url must be of printable ASCII characters, without space and backslash")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise ValueError("url has no host, or a wrong port")
    if "@" in parts.netloc:
        raise ValueError("url must not hold a user name or password: a key is read from the variable in key_env")
    if "?" in url or "#" in url:
        raise ValueError("url must end before /chat/completions, without query or fragment")
    return host


RewriterParams = Grammar | Chat | Endpoint


def load_rewriter(params: RewriterParams, wording: Wording, seed: int) -> Rewriter:
    """The rewriter of `params`. Raises NearsafeError naming the folder or variable that is missing."""
    if isinstance(params, Chat):
        from pipeline.rewriting.chat import ChatRewriter

        return ChatRewriter(params, wording.hazards)
    if isinstance(params, Endpoint):
        from pipeline.rewriting.endpoint import EndpointRewriter

        return EndpointRewriter(params, wording.hazards)
    from pipeline.world.rewriting import GrammarRewriter

    return GrammarRewriter(seed)
