"""Rewriting by any OpenAI-compatible endpoint (`POST <url>/chat/completions`), with retries and bounded concurrency.

Only captions that passed the age-word filter are sent. The key is read from the environment and goes nowhere else.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import Any

import httpx

from pipeline.errors import NearsafeError
from pipeline.rewriting.instruction import INSTRUCTION_VERSION, instruct
from pipeline.rewriting.registry import Endpoint, is_loopback

LONGEST_WAIT = 60.0
LARGEST_ANSWER = 1 << 20  # bytes
_SHOWN = 200  # characters of a server's text in an error
_DEFAULTS = {"temperature": 0, "max_tokens": 96}


class EndpointRewriter:
    """Answers of one model of one endpoint. `sleep` replaces the wait before a retry, which a failure ends early."""

    def __init__(
        self, params: Endpoint, hazards: Mapping[str, Sequence[str]], sleep: Callable[[float], None] | None = None
    ) -> None:
        self.params, self.hazards, self.sleep = params, hazards, sleep
        self.address = f"{params.url.rstrip('/')}/chat/completions"
        try:
            self.host = httpx.URL(self.address).host
        except httpx.InvalidURL as error:
            raise NearsafeError(f"build_nsfwcaps.rewriter.url: {error}") from None
        self.facts = {"url": params.url, "model": params.model, "instruction": INSTRUCTION_VERSION}
        self.name = f"{params.model} at {self.host}, instruction {INSTRUCTION_VERSION}"
        _key(params.key_env)

    def rewrite(self, captions: Sequence[str], categories: Sequence[str]) -> list[str | None]:
        """See `Rewriter`. Raises NearsafeError naming address, status and reason when retries are used up."""
        asked = [
            instruct(caption, category, self.hazards[category])
            for caption, category in zip(captions, categories, strict=True)
        ]
        stop = Event()
        with self._client() as client, ThreadPoolExecutor(self.params.concurrency) as pool:
            try:
                futures = [pool.submit(self._ask, client, request, stop) for request in asked]
                done = wait(futures, return_when=FIRST_EXCEPTION).done
                return [future.result() for future in futures if future in done]  # all of them, or the failure
            except BaseException:
                stop.set()  # one request that fails for good ends the shard, and the others' retries
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _client(self) -> httpx.Client:
        key = _key(self.params.key_env)
        return httpx.Client(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=self.params.timeout_seconds,
            limits=httpx.Limits(max_connections=self.params.concurrency),
            trust_env=not is_loopback(self.host),  # no proxy between this machine and itself
        )

    def _ask(self, client: httpx.Client, request: str, stop: Event) -> str | None:
        body = {
            **_DEFAULTS,
            **self.params.request,
            "model": self.params.model,
            "messages": [{"role": "user", "content": request}],
        }
        backoff, reason = self.params.backoff_seconds, "stopped"
        for left in range(self.params.retries, -1, -1):
            if stop.is_set():
                break
            try:
                with client.stream("POST", self.address, json=body) as response:
                    text = self._read(response)
            except httpx.LocalProtocolError:  # a header cannot be sent; the message may quote it
                raise NearsafeError(f"{self.address}: the request is not valid HTTP (is the key?)") from None
            except httpx.TransportError as error:  # no connection, timeout, broken answer
                reason, pause = f"{type(error).__name__}: {self._shown(str(error))}", backoff
            else:
                if response.is_success:
                    return self._answer(text)
                reason = f"status {response.status_code}: {self._shown(text)}"
                if response.status_code not in (408, 409, 429) and response.status_code < 500:
                    raise NearsafeError(f"{self.address}: {reason}")
                pause = _retry_after(response, backoff)
            if left:
                (self.sleep or stop.wait)(min(pause, LONGEST_WAIT))
                backoff *= 2
        raise NearsafeError(f"{self.address}: still failing after {self.params.retries} retries: {reason}")

    def _read(self, response: httpx.Response) -> str:
        """The text of an answer as it was sent. Raises NearsafeError for a compressed one and one without end."""
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise NearsafeError(f"{self.address}: a compressed answer, which was not asked for")
        found = bytearray()
        for part in response.iter_raw():
            found += part
            if len(found) > LARGEST_ANSWER:
                raise NearsafeError(f"{self.address}: an answer of more than {LARGEST_ANSWER} bytes")
        return found.decode("utf-8", errors="replace")

    def _answer(self, text: str) -> str | None:
        try:
            content: Any = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise NearsafeError(f"{self.address}: not an answer of a chat completion: {self._shown(text)!r}") from None
        if not isinstance(content, str) or any("\ud800" <= c <= "\udfff" for c in content):  # half a character
            return None
        return content.strip() or None

    def _shown(self, text: str) -> str:
        """The beginning of a server's text in one printable line, without the key."""
        if key := _key(self.params.key_env):
            text = text.replace(key, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN]


def _key(variable: str | None) -> str | None:
    """The key in an environment variable. Raises NearsafeError naming the variable, never its value."""
    if variable is None:
        return None
    where = f"build_nsfwcaps.rewriter.key_env: environment variable {variable}"
    key = os.environ.get(variable, "").strip()
    if not key:
        raise NearsafeError(f"{where} is not set")
    if not (key.isascii() and key.isprintable()):
        raise NearsafeError(f"{where} holds characters that are not printable ASCII: not a key")
    return key


def _retry_after(response: httpx.Response, default: float) -> float:
    """Seconds that the server asks for, where it gives a finite number; never less than the backoff."""
    try:
        seconds = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return default
    return max(seconds, default) if math.isfinite(seconds) else default
