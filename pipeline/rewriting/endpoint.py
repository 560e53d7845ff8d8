"""Rewriting by any OpenAI-compatible endpoint (`POST <url>/chat/completions`), with retries and bounded concurrency.

Only captions that passed the age-word filter are sent. The key is read from the environment and goes nowhere else.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from pipeline.errors import NearsafeError
from pipeline.rewriting.instruction import INSTRUCTION_VERSION, instruct
from pipeline.rewriting.registry import Endpoint

LONGEST_WAIT = 60.0
_DEFAULTS = {"temperature": 0, "max_tokens": 96}


class EndpointRewriter:
    """Answers of one model of one endpoint."""

    def __init__(
        self, params: Endpoint, hazards: Mapping[str, Sequence[str]], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.params, self.hazards, self.sleep = params, hazards, sleep
        self.address = f"{params.url.rstrip('/')}/chat/completions"
        self.facts = {"url": params.url, "model": params.model, "instruction": INSTRUCTION_VERSION}
        self.name = f"{params.model} at {httpx.URL(params.url).host}, instruction {INSTRUCTION_VERSION}"
        if params.key_env is not None and not os.environ.get(params.key_env):
            raise NearsafeError(f"build_nsfwcaps.rewriter.key_env: environment variable {params.key_env} is not set")

    def rewrite(self, captions: Sequence[str], categories: Sequence[str]) -> list[str | None]:
        """See `Rewriter`. Raises NearsafeError naming address, status and reason when retries are used up."""
        asked = [
            instruct(caption, category, self.hazards[category])
            for caption, category in zip(captions, categories, strict=True)
        ]
        limits = httpx.Limits(max_connections=self.params.concurrency)
        with (
            httpx.Client(headers=self._headers(), timeout=self.params.timeout_seconds, limits=limits) as client,
            ThreadPoolExecutor(self.params.concurrency) as pool,
        ):
            futures = [pool.submit(self._ask, client, request) for request in asked]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # one request that fails for good ends the shard
                raise

    def _headers(self) -> dict[str, str]:
        key = os.environ[self.params.key_env] if self.params.key_env is not None else None
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _ask(self, client: httpx.Client, request: str) -> str | None:
        body = {
            **_DEFAULTS,
            **self.params.request,
            "model": self.params.model,
            "messages": [{"role": "user", "content": request}],
        }
        wait = self.params.backoff_seconds
        for left in range(self.params.retries, -1, -1):
            try:
                response = client.post(self.address, json=body)
            except httpx.TransportError as error:  # no connection, timeout, broken answer
                reason, pause = f"{type(error).__name__}: {error}", wait
            else:
                if response.is_success:
                    return self._answer(response)
                reason = f"status {response.status_code}: {' '.join(response.text.split())[:200]}"
                if response.status_code not in (408, 409, 429) and response.status_code < 500:
                    raise NearsafeError(f"{self.address}: {reason}")
                pause = _retry_after(response, wait)
            if left:
                self.sleep(min(pause, LONGEST_WAIT))
                wait *= 2
        raise NearsafeError(f"{self.address}: still failing after {self.params.retries} retries: {reason}")

    def _answer(self, response: httpx.Response) -> str | None:
        try:
            content: Any = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            shown = " ".join(response.text.split())[:200]
            raise NearsafeError(f"{self.address}: not an answer of a chat completion: {shown!r}") from None
        return content.strip() or None if isinstance(content, str) else None


def _retry_after(response: httpx.Response, default: float) -> float:
    """Seconds that the server asks for, where it gives a number; never less than the backoff."""
    try:
        return max(float(response.headers["retry-after"]), default)
    except (KeyError, ValueError):
        return default
