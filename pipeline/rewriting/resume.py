"""Rewriting that can be interrupted: answers are kept in shards of fixed rows until the output is finished."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import replacing
from pipeline.rewriting.protocol import Rewriter


@dataclass(frozen=True)
class Resumable:
    """A rewriter that asks `rewriter` for `shard_size` captions at a time and finds finished shards in `folder`.

    A shard is always asked as a whole, so that an interruption cannot change how a model's batches are cut. `folder`
    belongs to one spec: the output that owns it empties it when model, parameters or code change.
    """

    rewriter: Rewriter
    folder: Path
    shard_size: int
    log: Callable[[str], None]

    @property
    def name(self) -> str:
        """That of the rewriter."""
        return self.rewriter.name

    @property
    def facts(self) -> dict[str, str]:
        """Those of the rewriter."""
        return self.rewriter.facts

    def rewrite(self, captions: Sequence[str], categories: Sequence[str]) -> list[str | None]:
        """See `Rewriter`. A shard of other captions or categories, or a broken one, is asked again."""
        answers: list[str | None] = []
        kept = 0
        for start in range(0, len(captions), self.shard_size):
            rows = slice(start, start + self.shard_size)
            asked = [list(row) for row in zip(captions[rows], categories[rows], strict=True)]
            file = self.folder / f"rewrites-{start // self.shard_size:05d}.json"
            found = _read(file, asked)
            if found is None:
                found = self.rewriter.rewrite(captions[rows], categories[rows])
                _write(file, asked, found)
                self.log(f"rewrote {start + len(found)} of {len(captions)} captions")
            else:
                kept += len(found)
            answers += found
        if kept:
            self.log(f"{kept} of {len(captions)} captions had been rewritten before the interruption")
        return answers


def _read(file: Path, asked: list[list[str]]) -> list[str | None] | None:
    try:
        shard = json.loads(file.read_text(encoding="utf-8"))
        same = shard["asked"] == asked and shard["sha256"] == _hash(asked, shard["answers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shard["answers"] if same else None


def _write(file: Path, asked: list[list[str]], answers: list[str | None]) -> None:
    shard = {"asked": asked, "answers": answers, "sha256": _hash(asked, answers)}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(shard, ensure_ascii=False), encoding="utf-8")


def _hash(asked: list[list[str]], answers: list[str | None]) -> str:
    """Of a shard: one that was damaged on disk is asked again."""
    return hashlib.sha256(json.dumps([asked, answers]).encode()).hexdigest()
