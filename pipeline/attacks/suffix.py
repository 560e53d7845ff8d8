"""Tokens around a prompt that give it its undefended embedding back: greedy coordinate gradient over text.

Attack code: it exists to measure defences. Of the family of UnlearnDiffAtk, Ring-A-Bell and MMA-Diffusion, which search
tokens so that the text tower's states (or the noise they lead to) come near those of an unsafe prompt. The search is
that of GCG (Zou et al., arXiv 2307.15043): the gradient with respect to one-hot tokens proposes exchanges of single
tokens, a forward pass judges a random few of them. It runs for many prompts side by side.

A text tower is causal: a suffix leaves the states of the prompt's own tokens as the defence made them and changes only
those behind; a prefix, UnlearnDiffAtk's place, reaches them all, but moves the prompt. A defence that withstands one of
them need not withstand the other.

Only text counts. What is added are tokens that are words of their own, every candidate is tokenised from its text again
and dropped where the tokens come out otherwise, and the similarity that is reported is that of the text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from pipeline.attacks.protocol import Aim, Found, similarity
from pipeline.models.conditioning import TextTower

Place = Literal["suffix", "prefix", "both"]
# Words inside a phrase such as "a box of pills" that say nothing of a hazard: they may be added.
_FUNCTION_WORDS = frozenset({"a", "an", "the", "some", "of"})
_NO_TEXT = -2.0  # below every cosine
_GAIN = 1e-6  # above the rounding of other batch shapes: what is kept is better, not differently rounded
Added = tuple[int, ...]
_ARTICLE = r"(?:(?:an?|the|some)\s+)?"


@dataclass(frozen=True)
class Budget:
    """`tokens` to add at `place` ("both": half before the prompt), `steps` of the search, `candidates` judged per step.

    An exchange is drawn from the `top_k` tokens that the gradient favours at a place. `batch_size` texts pass the text
    tower together, with and without gradient. `banned`: words and phrases whose tokens must not be added.
    """

    tokens: int
    steps: int
    candidates: int
    place: Place = "suffix"
    top_k: int = 32
    batch_size: int = 256
    banned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.tokens, self.steps, self.candidates, self.top_k, self.batch_size) < 1:
            raise ValueError("tokens, steps, candidates, top_k and batch_size must be at least 1")


def without_words(text: str, words: Iterable[str]) -> str:
    """`text` without each of `words` (words or phrases, any case, whole words only) and the article before it."""
    longest_first = sorted(words, key=len, reverse=True)
    if not longest_first:
        return text
    named = "|".join(re.escape(word) for word in longest_first)
    return " ".join(re.sub(rf"(?<!\w){_ARTICLE}(?:{named})(?!\w)", "", text, flags=re.IGNORECASE).split())


def alphabet(tokenizer: CLIPTokenizer, banned: Sequence[str] = ()) -> dict[int, str]:
    """Token id to text of every token that is a word of its own: its text alone gives the token back.

    Left out are the special tokens and every token of a word in `banned`. Raises ValueError where nothing is left.
    """
    words = {word for phrase in banned for word in phrase.split()} - _FUNCTION_WORDS
    refused = {token for word in words for token in _tokens(tokenizer, word)} | set(tokenizer.all_special_ids)
    pieces = enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    final = {token: piece.removesuffix("</w>") for token, piece in pieces if piece.endswith("</w>")}
    read = tokenizer(list(final.values()), add_special_tokens=False).input_ids
    found = {
        token: text
        for (token, text), tokens in zip(final.items(), read, strict=True)
        if token not in refused and tokens == [token]
    }
    if not found:
        raise ValueError("no token of the vocabulary may be added")
    return found


def token_gradients(victim: TextTower, ids: Tensor, targets: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
    """Gradient (B, P, A) of the similarity to `targets` (B, L, D) with respect to one-hot tokens of texts `ids` (B, L).

    Of a text's L places those in `places` (B, P) int64, of the vocabulary `tokens` (A,) int64: no more is computed.
    """
    leaves: list[Tensor] = []

    def detach(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    words = victim.model.get_input_embeddings()
    handle = words.register_forward_hook(detach)
    try:
        with torch.enable_grad():
            states = victim.model(input_ids=ids).last_hidden_state
            (gradient,) = torch.autograd.grad(similarity(states, targets).sum(), leaves)
    finally:
        handle.remove()
    at_places = gradient.take_along_dim(places[:, :, None], dim=1)
    return at_places @ words.weight.detach()[tokens].T


def search(victim: TextTower, aim: Aim, budget: Budget, pieces: Mapping[int, str] | None = None) -> Found:
    """For each start, the added tokens whose text comes nearest to the target; none where the bare start is nearer.

    A start that leaves room for fewer tokens than the budget gets fewer, and none where it leaves no room. `pieces`:
    the `alphabet` of the victim and the banned words, from a caller that searches more than once.
    """
    field = _Field(victim, aim, budget, alphabet(victim.tokenizer, budget.banned) if pieces is None else pieces)
    before = field.read(aim.starts)
    current = [field.draw(row) for row in field.rows]
    reached = field.judge(list(enumerate(current)))
    best, chosen = before.clone(), [()] * len(current)
    for step in range(budget.steps + 1):
        for row in field.rows:
            if reached[row] > best[row] + _GAIN:
                best[row], chosen[row] = reached[row], current[row]
        if step == budget.steps:
            break
        tried = field.exchanges(current)
        scores = field.judge([(row, added) for row in field.rows for added in tried[row]])
        for row, score in enumerate(scores.split([len(exchanges) for exchanges in tried])):
            if len(score) and score.max() > _NO_TEXT:  # the best exchange, even where it is worse: a way out of a dip
                at = int(score.argmax())
                current[row], reached[row] = tried[row][at], score[at]
    texts = tuple(field.text(row, added) for row, added in enumerate(chosen))
    return Found(before, field.read(texts), tuple(map(len, chosen)), texts)


class _Field:
    """The searches of one call: what each may still choose, and how its choices are judged."""

    def __init__(self, victim: TextTower, aim: Aim, budget: Budget, pieces: Mapping[int, str]) -> None:
        self.victim, self.aim, self.budget, self.pieces = victim, aim, budget, pieces
        self.device = victim.model.device
        self.targets = aim.targets.to(self.device)
        self.alphabet = torch.tensor(list(pieces))
        longest = victim.model.config.max_position_embeddings
        self.rows = range(len(aim.starts))
        self.starts = [_tokens(victim.tokenizer, start) for start in aim.starts]
        self.sizes = [max(0, min(budget.tokens, longest - 2 - len(start))) for start in self.starts]
        self.draws = [torch.Generator("cpu").manual_seed(seed) for seed in aim.seeds]

    def split(self, added: Added) -> tuple[Added, Added]:
        """The tokens that go before the start, and those after."""
        cut = {"suffix": 0, "both": len(added) // 2, "prefix": len(added)}[self.budget.place]
        return added[:cut], added[cut:]

    def text(self, row: int, added: Added) -> str:
        before, after = ([self.pieces[token] for token in part] for part in self.split(added))
        return " ".join((*before, self.aim.starts[row], *after))

    def draw(self, row: int) -> Added:
        """Tokens at random."""
        at = torch.randint(len(self.alphabet), (self.sizes[row],), generator=self.draws[row])
        return tuple(self.alphabet[at].tolist())

    def exchanges(self, current: list[Added]) -> list[list[Added]]:
        """For each row its candidates: `current` with one token exchanged for one that the gradient favours."""
        rows = list(enumerate(current))
        found: list[list[Added]] = []
        for start in range(0, len(rows), self.budget.batch_size):
            part = rows[start : start + self.budget.batch_size]
            favoured = self._favoured(part)
            found += [self._exchanges(*row, ranked) for row, ranked in zip(part, favoured, strict=True)]
        return found

    def _favoured(self, part: Sequence[tuple[int, Added]]) -> Tensor:
        """Indices (B, T, top_k) into the alphabet: what the gradient favours in place of each of T added tokens.

        A row that adds fewer than T has the begin token's place for the rest.
        """
        longest = max(len(added) for _, added in part)
        places = [self._places(row, added) + [0] * (longest - len(added)) for row, added in part]
        gradient = token_gradients(
            self.victim,
            self.victim.tokens([self.text(row, added) for row, added in part]),
            self.targets[[row for row, _ in part]],
            torch.tensor(places, dtype=torch.int64, device=self.device),
            self.alphabet.to(self.device),
        )
        return gradient.cpu().topk(min(self.budget.top_k, len(self.alphabet)), dim=2).indices

    def _places(self, row: int, added: Added) -> list[int]:
        """Where the added tokens are in the row's text; the begin token is at 0."""
        before = len(self.split(added)[0])
        return [1 + at + (0 if at < before else len(self.starts[row])) for at in range(len(added))]

    def _exchanges(self, row: int, added: Added, favoured: Tensor) -> list[Added]:
        if not added:
            return []
        count, draws = self.budget.candidates, self.draws[row]
        places = torch.randint(len(added), (count,), generator=draws)
        ranks = torch.randint(favoured.shape[1], (count,), generator=draws)
        tokens = self.alphabet[favoured[places, ranks]]
        pairs = zip(places.tolist(), tokens.tolist(), strict=True)
        return [(*added[:place], token, *added[place + 1 :]) for place, token in pairs]

    def judge(self, tried: Sequence[tuple[int, Added]]) -> Tensor:
        """Similarity (N,) on the CPU of row and added tokens; `_NO_TEXT` where their text is tokenised otherwise."""
        found = torch.full((len(tried),), _NO_TEXT)
        for start in range(0, len(tried), self.budget.batch_size):
            part = tried[start : start + self.budget.batch_size]
            ids = self.victim.tokens([self.text(row, added) for row, added in part])
            same = torch.tensor([self._keeps(tokens, *pair) for tokens, pair in zip(ids.tolist(), part, strict=True)])
            owners = torch.tensor([row for row, _ in part], device=self.device)
            with torch.no_grad():
                states = self.victim.model(input_ids=ids).last_hidden_state
                values = similarity(states, self.targets[owners]).cpu()
            found[start : start + len(part)] = torch.where(same, values, _NO_TEXT)
        return found

    def _keeps(self, tokens: list[int], row: int, added: Added) -> bool:
        before, after = self.split(added)
        expected = [*before, *self.starts[row], *after]
        return tokens[1 : 2 + len(expected)] == [*expected, self.victim.tokenizer.eos_token_id]

    def read(self, texts: Sequence[str]) -> Tensor:
        """Similarity (B,) on the CPU of one text per row, as the sampler reads it."""
        return similarity(self.victim.encode(texts), self.targets).cpu()


def _tokens(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids
