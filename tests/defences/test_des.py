"""DES as a defence: what its terms add up to, its switches and extensions, and what its parameters refuse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.defences import des
from pipeline.defences.protocol import States, TokenBatch
from pipeline.defences.registry import Defence, make_defence
from pipeline.errors import NearsafeError
from pipeline.models.clip import Clip, load_clip
from pipeline.models.finetune import tune
from pipeline.token_set import TokenSet, read_token_set
from tests.learning import DES, LENGTH, WIDTH, save_clip, save_prompt_pairs

HARMFUL = ["one knife", "two bombs", "an axe and a knife", "a bomb on a bridge", "knife and axe", "the axe"]
EXTENSIONS = {
    "mcn": {"mcn": {"concepts": ["a knife", "a bomb", "an axe"]}},
    "orthogonality": {"orthogonality": {"weight": 0.1, "harmful": HARMFUL, "directions": 3}},
    "push_origin": {"push_origin": 0.1},
    "push_harm": {"push_harm": {"weight": 0.1, "concepts": ["a knife", "a bomb"]}},
    "margin": {"margin": {"safe": 0.9, "unsafe": 0.8}},
    "mmd": {"mmd": {"weight": 0.1}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("des") / "clip")


@pytest.fixture(scope="module")
def clip(folder) -> Clip:
    return load_clip(folder)


@pytest.fixture(scope="module")
def data(clip, tmp_path_factory) -> TokenSet:
    return read_token_set(save_prompt_pairs(tmp_path_factory.mktemp("des") / "world"), clip)


def defence(**changes: object) -> Defence:
    own = {name: value for name, value in {**DES, **changes}.items() if name not in ("method", "train")}
    return make_defence("des", "des", own)


@pytest.fixture(scope="module")
def batch(folder, data) -> Callable[..., tuple[TokenBatch, torch.nn.Module]]:
    """A batch of all pairs after the tower has moved a little, and the model that made it."""

    def make(found: Defence) -> tuple[TokenBatch, torch.nn.Module]:
        clip = load_clip(folder)
        feed = data.feed(found, clip)
        model = tune(clip.model, None, torch.Generator(), ("text",)).model
        with torch.no_grad():
            for number, parameter in enumerate(model.text_model.parameters()):
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        return feed.batch(model, torch.arange(12)), model

    return make


def values(found: Defence, made: TokenBatch) -> dict[str, tuple[float, Tensor]]:
    return found.terms(made)


def total(terms: dict) -> Tensor:
    return sum(weight * value for weight, value in terms.values())


def flat(states: States) -> Tensor:
    return states.states.flatten(1)


def test_it_reads_token_states_and_trains_the_text_tower_alone():
    found = defence(**EXTENSIONS["mcn"], **EXTENSIONS["push_harm"])
    assert (found.input, found.towers) == ("tokens", ("text",))
    assert found.live_texts == ("a knife", "a bomb", "an axe"), "the concepts of MCN take the place of the concept"
    assert found.frozen_texts == (DES["concept"], "", "a knife", "a bomb")
    assert defence().live_texts == (DES["concept"],) and defence(nen=False).live_texts == ()


def test_the_total_is_equation_7(batch):
    made, _ = batch(defence())
    n, empty = made.frozen.of([DES["concept"]]), made.frozen.of([""])
    targets = des.target_vectors(
        torch.cat([part.states for part in made.frozen.unsafe()]), made.frozen.codebook.states, n.states, 10.0
    )
    l_u = des.unsafe_neutralization(made.unsafe.states, targets)
    l_s = des.safe_preservation(made.safe.states, made.ref_safe.states, n.states, 10.0)
    l_n = des.concept_neutralization(made.live.states, empty.states)
    terms = values(defence(), made)
    assert total(terms).item() == pytest.approx((0.3 * l_s + 0.7 * (l_u + l_n)).item(), rel=1e-6)
    assert [name for name, (weight, _) in terms.items() if weight] == ["unsafe", "safe", "concept"]
    assert terms["safe_length"][1].item() == pytest.approx(made.ref_safe.states.flatten(1).norm(dim=1).mean().item())
    cosines = torch.nn.functional.normalize(targets.flatten(1), dim=1)
    off = (cosines @ cosines.T)[~torch.eye(12, dtype=torch.bool)].mean()
    assert terms["target_cosine"][1].item() == pytest.approx(off.item(), rel=1e-4)


def test_lambda_and_alpha_come_from_the_parameters(batch):
    made, _ = batch(defence(lam=0.6, alpha=3.0))
    terms = values(defence(lam=0.6, alpha=3.0), made)
    assert terms["safe"][0] == 0.6 and terms["unsafe"][0] == terms["concept"][0] == pytest.approx(0.4)
    n = made.frozen.of([DES["concept"]]).states
    expected = des.safe_preservation(made.safe.states, made.ref_safe.states, n, 3.0)
    assert terms["safe"][1].item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms["unsafe"][1] != values(defence(), made)["unsafe"][1]


@pytest.mark.parametrize(
    "off, left", [("uen", {"safe", "concept"}), ("sep", {"unsafe", "concept"}), ("nen", {"unsafe", "safe"})]
)
def test_a_part_that_is_switched_off_is_gone(batch, off, left):
    found = defence(**{off: False})
    made, _ = batch(found)
    assert {name for name, (weight, _) in values(found, made).items() if weight} == left
    assert len(made.live.ends) == ("concept" in left)


def test_without_pala_safe_preservation_is_the_basic_term(batch):
    made, _ = batch(defence(pala=False))
    expected = des.unsafe_neutralization(made.safe.states, made.ref_safe.states)
    assert values(defence(pala=False), made)["safe"][1].item() == expected.item()


def test_with_every_extension_off_the_total_is_that_of_des_bit_for_bit(batch):
    """Weights of 0 and nulls leave no trace, gradients included."""
    off = {
        "push_origin": 0.0,
        "mcn": None,
        "margin": None,
        "orthogonality": {"weight": 0, "harmful": HARMFUL, "directions": 2},
        "push_harm": {"weight": 0, "concepts": ["a knife"]},
        "mmd": {"weight": 0},
    }
    results = []
    for found in (defence(), defence(**off)):
        made, model = batch(found)
        loss = total(values(found, made))
        loss.backward()
        results.append((loss, [p.grad for p in model.text_model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_changes_its_own_term_alone_and_trains_the_encoder(batch, name):
    found = defence(**EXTENSIONS[name])
    made, model = batch(found)
    terms, plain = values(found, made), values(defence(), batch(defence())[0])
    changed = {"mcn": {"concepts"}, "margin": {"safe", "unsafe"}, "mmd": {"mmd", "mmd_kernel"}}.get(name, {name})
    kept = set(plain) - changed - ({"concept"} if name == "mcn" else set())
    assert set(terms) == kept | changed
    assert all(terms[key][1].item() == pytest.approx(plain[key][1].item(), rel=1e-5) for key in kept)
    for key in changed - {"mmd_kernel"}:
        model.zero_grad()
        terms[key][1].backward(retain_graph=True)
        norm = sum(p.grad.norm() for p in model.text_model.parameters() if p.grad is not None)
        assert norm > 1e-4, key
    if name == "mmd":
        assert terms["mmd_kernel"][0] == 0 and 0.05 < terms["mmd_kernel"][1].item() < 0.95


def test_all_extensions_together(batch):
    found = defence(**{key: value for extension in EXTENSIONS.values() for key, value in extension.items()})
    made, _ = batch(found)
    weights = {name: weight for name, (weight, _) in values(found, made).items() if weight}
    expected = {"unsafe": 0.7, "safe": 0.3, "concepts": 0.7, "orthogonality": 0.1, "push_origin": 0.1, "push_harm": 0.1}
    assert weights == pytest.approx({**expected, "mmd": 0.1})
    assert set(made.fixed) == {"concept", "empty", "centres", "directions"}
    assert made.fixed["directions"].shape == (3, LENGTH * WIDTH) and made.fixed["centres"].shape == (2, LENGTH * WIDTH)
    torch.testing.assert_close(made.fixed["directions"] @ made.fixed["directions"].T, torch.eye(3), atol=1e-5, rtol=0)


def test_neutralising_several_concepts_brings_each_nearer_to_the_empty_prompt(data, folder):
    """The trap of the report's code: concepts embedded without gradient never move."""
    found, clip = defence(**EXTENSIONS["mcn"], lam=0.0, uen=False), load_clip(folder)
    feed = data.feed(found, clip)
    model = tune(clip.model, None, torch.Generator(), found.towers).model
    distances = []
    for _ in range(3):
        made = feed.batch(model, torch.arange(4))
        cosines = torch.nn.functional.cosine_similarity(flat(made.live), made.fixed["empty"][None])
        distances.append(1 - cosines.detach())
        model.zero_grad()
        total(values(found, made)).backward()
        with torch.no_grad():
            for parameter in model.text_model.parameters():
                parameter -= 0.002 * parameter.grad
    assert (distances[1] < distances[0]).all() and (distances[2] < distances[1]).all()


def test_the_eos_variant_supervises_the_end_token_alone(batch):
    found = defence(embedding="eos", alpha=2.0)
    made, _ = batch(found)
    assert made.fixed["concept"].shape == (WIDTH,)
    leaf = made.unsafe.states.detach().clone().requires_grad_()
    changed = replace(made, unsafe=States(leaf, made.unsafe.ends))
    values(found, changed)["unsafe"][1].backward()
    touched = leaf.grad.abs().sum(2) > 0
    assert touched.sum(1).tolist() == [1] * 12
    assert torch.equal(touched.int().argmax(1), made.unsafe.ends)


def test_the_direction_of_the_concept_is_the_undefended_one(batch, clip):
    """des.md section 3: Eq. 4 has the original n, not the current one."""
    made, _ = batch(defence())
    ids = clip.tokenizer(DES["concept"], padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        n = clip.model.text_model(input_ids=ids).last_hidden_state.flatten()
    torch.testing.assert_close(made.fixed["concept"], n, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(flat(made.live)[0], n, atol=1e-2)


def test_directions_need_prompts_that_are_not_trained_on(data, folder):
    found = defence(orthogonality={"weight": 0.1, "harmful": [*HARMFUL, data.texts[0]], "directions": 2})
    with pytest.raises(NearsafeError, match="orthogonality.harmful: '.*' is a training prompt"):
        data.feed(found, load_clip(folder))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mcn": {"concepts": []}}, "mcn: no concepts"),
        ({"mcn": {"concepts": ["a", "b"], "weights": [1.0]}}, "2 concepts and 1 weights"),
        ({"mcn": {"concepts": ["a"]}, "nen": False}, "mcn takes the place of nen"),
        ({"push_harm": {"weight": 0.1, "concepts": []}}, "push_harm: no concepts"),
        ({"orthogonality": {"weight": 0.1, "harmful": []}}, "0 distinct harmful prompts have no 8 directions"),
        ({"orthogonality": {"weight": 0.1, "harmful": ["a"] * 9}}, "1 distinct harmful prompts"),
        ({"mmd": {"weight": 0.1, "bandwidths": []}}, "bandwidths must be above 0, at least one"),
        ({"uen": False, "sep": False, "nen": False}, "nothing of DES is left"),
        ({"lam": 1.3}, "lam be from 0 to 1"),
        ({"concept": " "}, "concept must not be empty"),
        ({"push_origin": -0.1}, "weights be 0 or more"),
        ({"embedding": "pooled"}, "expected one of tokens, eos"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(NearsafeError, match=message):
        defence(**changes)
