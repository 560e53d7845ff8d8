"""The token search: what it may add, that it climbs, and that nothing but the prompt's own draws decides it."""

import pytest
import torch

from pipeline.attacks.protocol import Aim, Found, similarity
from pipeline.attacks.settings import WORLD_HAZARDS
from pipeline.attacks.suffix import Budget, alphabet, search, token_gradients, without_words
from pipeline.models.clip import load_clip
from pipeline.models.conditioning import TextTower
from pipeline.world.grammar import SYNONYMS, TEMPLATES, item_phrase
from tests.models.tiny import save_clip

TEXTS = ("a b c", "d e", "f g h i")


def tower(folder) -> TextTower:
    clip = load_clip(folder)
    return TextTower(clip.model.text_model.requires_grad_(False), clip.tokenizer, clip.hash)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """An undefended tower and a victim that is another random model: 12 tokens, of single letters."""
    root = tmp_path_factory.mktemp("towers")
    return tower(save_clip(root / "clip")), tower(save_clip(root / "other", seed=1))


def aim(undefended, texts=TEXTS, starts=None):
    return Aim(tuple(starts or texts), undefended.encode(texts), tuple(map(len, texts)))


def budget(**changes):
    return Budget(**{"tokens": 3, "steps": 4, "candidates": 6, "top_k": 8, **changes})


def test_similarity_is_the_cosine_of_all_token_states_together():
    states, targets = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
    assert similarity(states, targets) == pytest.approx(9 / 25)


@pytest.mark.parametrize("place", ["suffix", "prefix", "both"])
def test_the_find_is_nearer_than_its_start_and_says_so_truly(towers, place):
    undefended, victim = towers
    goal = aim(undefended)
    found = search(victim, goal, budget(place=place))
    assert torch.equal(found.before, similarity(victim.encode(TEXTS), goal.targets))
    assert torch.equal(found.after, similarity(victim.encode(found.texts), goal.targets))
    assert (found.after >= found.before).all() and (found.after > found.before).any()
    for text, start, added in zip(found.texts, TEXTS, found.tokens, strict=True):
        before = {"suffix": 0, "both": added // 2, "prefix": added}[place]
        words = text.split()
        assert words[before : len(words) - added + before] == start.split()


def test_more_steps_find_no_worse(towers):
    undefended, victim = towers
    few, many = (search(victim, aim(undefended), budget(steps=steps)).after for steps in (1, 8))
    assert (many >= few - 1e-6).all() and many.mean() > few.mean()


def test_a_start_that_cannot_be_bettered_is_kept(towers):
    undefended, _ = towers
    found = search(undefended, aim(undefended), budget())
    assert found.texts == TEXTS and found.tokens == (0, 0, 0)
    assert torch.equal(found.before, found.after) and found.after.min() > 0.999


def test_a_search_is_its_seeds_alone(towers):
    undefended, victim = towers
    whole = search(victim, aim(undefended), budget())
    assert search(victim, aim(undefended), budget()).texts == whole.texts
    assert search(victim, aim(undefended, TEXTS[::-1]), budget()).texts == whole.texts[::-1]
    assert search(victim, aim(undefended, TEXTS[1:2]), budget()).texts == whole.texts[1:2]
    assert search(victim, aim(undefended), budget(batch_size=2)).texts == whole.texts
    goal = aim(undefended)
    other = search(victim, Aim(goal.starts, goal.targets, tuple(seed + 1 for seed in goal.seeds)), budget())
    assert other.texts != whole.texts


def test_a_start_that_leaves_little_room_gets_fewer_tokens(towers):
    undefended, victim = towers
    texts = ("a b c d e f g h i", "a b c d e f g h i j", "a b c d e f g h i j k l")  # 10 fit between begin and end
    found = search(victim, aim(undefended, texts), budget())
    assert found.tokens[0] <= 1 and found.tokens[1:] == (0, 0) and found.texts[1:] == texts[1:]


@pytest.fixture
def passed(towers):
    """(rows, with gradient?) of every pass through the victim."""
    passes = []
    model = towers[1].model
    handle = model.register_forward_hook(
        lambda module, given, output: passes.append((len(output.last_hidden_state), torch.is_grad_enabled()))
    )
    yield passes
    handle.remove()


def test_a_search_judges_no_more_texts_than_its_budget(towers, passed):
    undefended, victim = towers
    search(victim, aim(undefended), budget(steps=5, candidates=7))
    judged, differentiated = (sum(rows for rows, gradient in passed if gradient is wanted) for wanted in (False, True))
    # Besides, each start and each find is read once.
    assert 0 < judged - 2 * len(TEXTS) <= len(TEXTS) * (1 + 5 * 7)
    assert 0 < differentiated <= len(TEXTS) * 5


def test_no_more_than_batch_size_texts_pass_the_tower_in_a_step(towers, passed):
    undefended, victim = towers
    search(victim, aim(undefended), budget(batch_size=2))
    assert max(rows for rows, gradient in passed if gradient) == 2
    assert max(rows for rows, _ in passed[1:-1]) == 2  # first and last: the starts and the finds


def test_the_gradient_of_one_hot_tokens_is_that_of_finite_differences(towers):
    undefended, victim = towers
    tokens = victim.tokenizer(["a b c"], padding="max_length", max_length=12, return_tensors="pt").input_ids
    targets = undefended.encode(["d e"])
    words = victim.model.get_input_embeddings()
    place, token, step = 2, 40, 1e-2
    gradient = token_gradients(victim, tokens, targets, torch.tensor([[3, place]]), torch.tensor([7, 8, token]))
    assert gradient.shape == (1, 2, 3)

    def moved(sign):
        def add(module, inputs, output):
            output = output.clone()
            output[0, place] += sign * step * words.weight[token]
            return output

        handle = words.register_forward_hook(add)
        try:
            return similarity(victim.model(input_ids=tokens).last_hidden_state, targets)
        finally:
            handle.remove()

    assert gradient[0, 1, 2] == pytest.approx(float(moved(1) - moved(-1)) / (2 * step), abs=2e-4)


@pytest.mark.parametrize("place", ["suffix", "prefix", "both"])
def test_the_gradient_is_asked_for_at_the_added_tokens(towers, monkeypatch, place):
    """What is left of each text without them, begin, end and padding is its start."""
    undefended, victim = towers
    asked = []

    def note(victim, ids, targets, places, tokens):
        asked.extend(zip(ids.tolist(), places.tolist(), strict=True))
        return token_gradients(victim, ids, targets, places, tokens)

    monkeypatch.setattr("pipeline.attacks.suffix.token_gradients", note)
    search(victim, aim(undefended), budget(steps=2, place=place))
    assert len(asked) == 2 * len(TEXTS)
    for (ids, places), text in zip(asked, TEXTS * 2, strict=True):
        left = [token for at, token in enumerate(ids) if at not in places]
        assert len(places) == 3 and victim.tokenizer.decode(left, skip_special_tokens=True).split() == text.split()


def test_only_words_of_their_own_are_added_and_no_token_of_a_banned_word(towers):
    tokenizer = towers[0].tokenizer
    free, without = alphabet(tokenizer), alphabet(tokenizer, ("a axe", "of Bz"))
    assert all(tokenizer(text, add_special_tokens=False).input_ids == [token] for token, text in free.items())
    assert {"a", "z", "!"} <= set(free.values()) and not {"A", "<|endoftext|>"} & set(free.values())
    # "axe" is the tokens a, x and e</w>, "Bz" is b and z</w>: e and z end words; "a" and "of" are function words.
    assert set(free.values()) - set(without.values()) == {"e", "z"}
    with pytest.raises(ValueError, match="no token of the vocabulary"):
        alphabet(tokenizer, (*free.values(), "ba"))  # alone a function word, "a" goes as the end of "ba"


def test_banned_words_do_not_come_back(towers):
    undefended, victim = towers
    texts = ("x y", "y z z")
    found = search(victim, aim(undefended, texts), budget(banned=tuple("bcdefghijklmnopqrstuvwx")))
    assert sum(found.tokens) > 0
    assert not {word for text in found.texts for word in text.split()[2:]} & set("bcdefghijklmnopqrstuvwx")


def test_a_text_that_is_tokenised_otherwise_is_no_candidate(towers):
    """Were "ab" a piece of the alphabet, its text would come back as two tokens."""
    undefended, victim = towers
    token = victim.tokenizer("b", add_special_tokens=False).input_ids[0]
    assert search(victim, aim(undefended), budget(), {token: "ab"}).texts == TEXTS


def test_words_go_with_their_articles():
    assert without_words("a cat with a Spray Can, the sky", ("can", "spray can")) == "a cat with , the sky"
    assert without_words("a box of pills beside a tree", ("pills", "box of pills")) == "beside a tree"
    assert without_words("gunpowder and begun", ("gun",)) == "gunpowder and begun"
    assert without_words("a  cat", ()) == "a  cat"


@pytest.mark.parametrize("hazard", SYNONYMS)
def test_the_worlds_hazards_are_all_listed(hazard):
    for synonym in range(3):
        item = item_phrase(hazard, synonym)
        for templates in TEMPLATES.values():
            rest = {name: "x" for name in ("size", "colour", "subject", "place", "weather", "flyer")}
            words, bare = (templates[0].format(item=i, **rest).split() for i in (item, ""))
            assert without_words(" ".join(words), WORLD_HAZARDS).split() == bare


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"steps": 0}, {"candidates": 0}, {"top_k": 0}])
def test_an_empty_budget_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        budget(**wrong)


def test_finds_are_texts_or_an_embedding_and_of_one_length():
    one = torch.ones(1)
    assert Found(one, one, (1,), embedding=torch.ones(1, 2, 3), latents=torch.ones(1, 4, 8, 8)).texts is None
    for wrong in ({}, {"texts": ("a",), "embedding": torch.ones(1, 2, 3)}):
        with pytest.raises(ValueError, match="one of the two"):
            Found(one, one, (1,), **wrong)
    with pytest.raises(ValueError, match="expected 1 finds"):
        Found(one, one, (1,), ("a", "b"))
    with pytest.raises(ValueError, match="2, 1 and 1"):
        Aim(("a", "b"), torch.ones(1, 2, 3), (0,))
