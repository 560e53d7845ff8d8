"""DES as a defence: what its terms add up to, its switches and extensions, and what its parameters refuse.

The ten conformance tests of des.md section 7 and where they are; L is test_token_losses.py, T test_training_tokens.py:

 1 flattened length, n and s*       L test_targets_are_the_least_similar_safe_vector_less_alpha_along_the_concept,
                                    L test_at_the_size_of_clip_l_alpha_is_comparable_with_a_vector
 2 argmin by brute force, pairing   L the first of these, L test_the_global_search_does_not_look_at_pairing_and_scale,
                                    T test_the_codebook_holds_each_safe_caption_once_and_streaming_changes_no_target
 3 alpha 0                          L test_without_alpha_targets_are_safe_vectors_and_pala_is_the_basic_term
 4 gradient of L_n                  L test_the_references_get_no_gradient_and_the_current_vectors_do
 5 step 0, E_o stays                T test_at_the_start_the_basic_safe_term_is_zero,
                                    T test_the_undefended_tower_stays_bit_identical
 6 108 steps, parameters, config    T test_the_paper_s_run_has_108_steps,
                                    T test_a_full_fine_tune_moves_every_parameter_of_the_text_tower_and_nothing_else,
                                    test_lambda_and_alpha_come_from_the_parameters
 7 |s| about 245                    L test_at_the_size_of_clip_l_alpha_is_comparable_with_a_vector: the arithmetic
 8 Tables 17 to 19                  need Stable Diffusion; the world's own are the study des_ablation, and the tables'
                                    numbers are checked in tests/results/test_published.py
 9 detector stack, N                tests/detectors/test_nudenet.py; N: tests/test_generation.py,
                                    test_filters_count_and_cannot_be_switched_off
10 undefended anchors               test_the_undefended_anchors_are_those_of_the_paper
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import torch
from torch import Tensor

from pipeline.defences import des
from pipeline.defences.protocol import States, TokenBatch
from pipeline.defences.registry import Defence, make_defence
from pipeline.defences.token_losses import kernel_mean, least_similar
from pipeline.errors import NearsafeError
from pipeline.models.clip import Clip, load_clip
from pipeline.models.finetune import tune
from pipeline.results import sources
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
KNOBS = {
    "mcn": {"mcn": {"concepts": ["a knife", "a bomb", "an axe"], "weights": [1.0, 0.25, 2.0]}},
    "orthogonality": {"orthogonality": {"weight": 0.3, "harmful": HARMFUL, "directions": 3, "reduce": "sum"}},
    "push_origin": {"push_origin": 0.3},
    "push_harm": {"push_harm": {"weight": 0.3, "concepts": ["a knife", "a bomb"], "reduce": "sum"}},
    "margin": {"margin": {"safe": 0.95, "unsafe": 0.85}},
    "margin_of_sep": {"margin": {"safe": 0.95}, "pala": False},
    "mmd": {"mmd": {"weight": 0.3, "bandwidths": [2.0, 9.0]}},
}
"""The same with every parameter of theirs off its default, or at another value than above."""


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


def written_out(made: TokenBatch, found: Defence) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of every term that `found` adds or alters, by the functions that the equations are tested on."""
    params = found.params
    vector = (lambda states: states.at_end) if params.embedding == "eos" else flat
    safe, unsafe, live = (vector(states) for states in (made.safe, made.unsafe, made.live))
    ref_safe, ref_unsafe = vector(made.ref_safe), vector(made.ref_unsafe())
    n, empty = made.fixed["concept"], made.fixed["empty"]
    terms: dict[str, tuple[float, Tensor]] = {}
    if params.mcn:
        terms["concepts"] = (0.7, des.multi_concept_neutralization(live, empty, params.mcn.weights))
    if ortho := params.orthogonality:
        terms["orthogonality"] = (ortho.weight, des.orthogonality(unsafe, made.fixed["directions"], ortho.reduce))
    if params.push_origin:
        terms["push_origin"] = (params.push_origin, des.push_origin(unsafe, ref_unsafe))
    if push := params.push_harm:
        terms["push_harm"] = (push.weight, des.push_harm(unsafe, made.fixed["centres"], push.reduce))
    if params.mmd:
        terms["mmd"] = (params.mmd.weight, des.mmd(unsafe, ref_safe, params.mmd.bandwidths))
        terms["mmd_kernel"] = (0.0, kernel_mean(unsafe, ref_safe, params.mmd.bandwidths))
    if margin := params.margin:
        hinge = des.margin_preservation(safe, ref_safe, n, params.alpha, margin.safe, pala=params.pala)
        terms["safe"] = (0.3, hinge)
    if margin and margin.unsafe is not None:
        target = des.target_vectors(ref_unsafe, vector(made.frozen.codebook), n, params.alpha)
        terms["unsafe"] = (0.7, des.margin_neutralization(unsafe, target, margin.unsafe))
    return terms


@pytest.mark.parametrize("embedding", ["tokens", "eos"])
@pytest.mark.parametrize("name", KNOBS)
def test_an_extension_is_its_equation_on_the_vectors_that_it_names(batch, name, embedding):
    """Which side, which reference and which parameters: exact values, at two settings that differ."""
    at: list[dict[str, float]] = []
    for changes in (EXTENSIONS[name.removesuffix("_of_sep")], KNOBS[name]):
        found = defence(**changes, embedding=embedding)
        made, _ = batch(found)
        terms, expected = values(found, made), written_out(made, found)
        assert expected and set(expected) <= set(terms)
        for key, (weight, value) in expected.items():
            assert terms[key][0] == pytest.approx(weight), key
            assert terms[key][1].item() == pytest.approx(value.item(), rel=1e-6), key
        at.append({key: value.item() for key, (_, value) in expected.items()})
    if name != "push_origin":
        assert all(abs(at[0][key] - at[1][key]) > 1e-3 for key in at[1]), "a knob that is not passed on would show"


def test_no_two_sides_of_the_batch_are_so_close_that_a_swap_would_not_show(batch):
    """What the test above stands on."""
    made, _ = batch(defence())
    sides = [made.safe, made.unsafe, made.ref_safe, made.ref_unsafe()]
    for vector in (flat, lambda states: states.at_end):
        for number, one in enumerate(sides):
            for other in sides[number + 1 :]:
                cosines = torch.nn.functional.cosine_similarity(vector(one), vector(other))
                assert cosines.mean() < 0.999


def test_the_method_s_own_tensors_are_undefended_vectors_of_the_texts_named(batch, clip):
    found = defence(**EXTENSIONS["push_harm"], **EXTENSIONS["orthogonality"], **EXTENSIONS["mcn"])
    made, _ = batch(found)

    def undefended(texts: list[str]) -> Tensor:
        ids = clip.tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        with torch.no_grad():
            return clip.model.text_model(input_ids=ids).last_hidden_state.flatten(1)

    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(made.fixed["empty"], undefended([""])[0], **close)
    torch.testing.assert_close(made.fixed["centres"], undefended(["a knife", "a bomb"]), **close)
    assert torch.equal(made.fixed["centres"], flat(made.frozen.of(["a knife", "a bomb"])))
    assert torch.equal(made.fixed["directions"], des.principal_directions(flat(made.frozen.of(HARMFUL)), 3))
    torch.testing.assert_close(
        made.fixed["directions"], des.principal_directions(undefended(HARMFUL), 3), atol=1e-3, rtol=0
    )
    eos, _ = batch(defence(**EXTENSIONS["push_harm"], embedding="eos"))
    assert torch.equal(eos.fixed["centres"], eos.frozen.of(["a knife", "a bomb"]).at_end)


def test_a_harmful_prompt_that_is_listed_twice_counts_once(data, folder):
    changes = {"weight": 0.1, "directions": 3}
    once, twice = (
        data.feed(defence(orthogonality={**changes, "harmful": harmful}), load_clip(folder)).fixed["directions"]
        for harmful in (HARMFUL, [*HARMFUL, HARMFUL[0], HARMFUL[0]])
    )
    assert torch.equal(once, twice)


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


def test_the_eos_variant_searches_and_moves_end_tokens(batch):
    made, _ = batch(defence(embedding="eos", alpha=2.0))
    tokens, _ = batch(defence(alpha=2.0))
    before, pool = torch.cat([part.at_end for part in made.frozen.unsafe()]), made.frozen.codebook.at_end
    assert torch.equal(made.own["least_similar"], least_similar(before, pool))
    assert not torch.equal(made.own["least_similar"], tokens.own["least_similar"]), "the search is another one"
    targets = des.target_vectors(before, pool, made.frozen.of([DES["concept"]]).at_end, 2.0)
    expected = des.unsafe_neutralization(made.unsafe.at_end, targets)
    terms = values(defence(embedding="eos", alpha=2.0), made)
    assert terms["unsafe"][1].item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms["safe_length"][1].item() == pytest.approx(made.ref_safe.at_end.norm(dim=1).mean().item())


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
        ({"mcn": {"concepts": []}}, "mcn.concepts: empty"),
        ({"mcn": {"concepts": ["a", " "]}}, "mcn.concepts: ' ' is blank"),
        ({"mcn": {"concepts": ["a", "b"], "weights": [0, 0]}}, "mcn.weights: all 0"),
        ({"mcn": {"concepts": ["a", "b"], "weights": [1, -2]}}, "mcn.weights: .* 0 or more, got -2"),
        ({"mcn": {"concepts": ["a", "b"], "weights": [1.0]}}, "2 concepts and 1 weights"),
        ({"mcn": {"concepts": ["a"]}, "nen": False}, "mcn takes the place of nen"),
        ({"push_harm": {"weight": 0.1, "concepts": []}}, "push_harm.concepts: empty"),
        ({"push_harm": {"weight": 0.1, "concepts": [""]}}, "push_harm.concepts: '' is blank"),
        ({"push_harm": {"weight": -1, "concepts": ["a"]}}, "push_harm.weight: .* got -1"),
        ({"orthogonality": {"weight": 0.1, "harmful": []}}, "orthogonality.harmful: empty"),
        ({"orthogonality": {"weight": 0.1, "harmful": ["a", "", "b"], "directions": 1}}, "harmful: '' is blank"),
        ({"orthogonality": {"weight": math.inf, "harmful": HARMFUL, "directions": 1}}, "ity.weight: .* got inf"),
        ({"orthogonality": {"weight": 1, "harmful": HARMFUL, "directions": 0}}, "have no 0 directions"),
        ({"orthogonality": {"weight": 1, "harmful": HARMFUL, "directions": 6}}, "6 distinct .* have no 6 directions"),
        ({"orthogonality": {"weight": 0.1, "harmful": ["a"] * 9}}, "1 distinct harmful prompts"),
        ({"mmd": {"weight": 0.1, "bandwidths": []}}, "mmd.bandwidths: empty"),
        ({"mmd": {"weight": 0.1, "bandwidths": [1, 0]}}, "mmd.bandwidths: expected finite lengths above 0, got 0"),
        ({"mmd": {"weight": 0.1, "bandwidths": [math.inf]}}, "mmd.bandwidths: .* got inf"),
        ({"mmd": {"weight": math.nan}}, "mmd.weight: .* got nan"),
        ({"margin": {"safe": -1}}, "margin.safe is a cosine: expected above -1 and up to 1, got -1"),
        ({"margin": {"safe": 0.9, "unsafe": 1.1}}, "margin.unsafe is a cosine: .* got 1.1"),
        ({"margin": {"safe": math.nan}}, "margin.safe is a cosine: .* got nan"),
        ({"margin": {"safe": 0.9}, "sep": False}, "margin alters sep: leave sep on"),
        ({"margin": {"safe": 0.9, "unsafe": 0.8}, "uen": False}, "margin.unsafe alters uen: leave uen on"),
        ({"uen": False, "sep": False, "nen": False}, "nothing of DES is left"),
        ({"lam": 1.3}, "lam: expected from 0 to 1, got 1.3"),
        ({"lam": math.nan}, "lam: expected from 0 to 1, got nan"),
        ({"alpha": -5}, "alpha: expected a finite number of 0 or more, got -5"),
        ({"alpha": math.nan}, "alpha: .* got nan"),
        ({"concept": " "}, "concept: ' ' is blank"),
        ({"concept": "a child"}, "concept: text 0 matches the age-word filter$"),
        ({"mcn": {"concepts": ["a", "k1d"]}}, "mcn.concepts: text 1 matches the age-word filter$"),
        ({"push_harm": {"weight": 0.1, "concepts": ["13 years old"]}}, "push_harm.concepts: text 0 matches the age"),
        ({"orthogonality": {"weight": 0.1, "harmful": ["a", "child"]}}, "orthogonality.harmful: text 1 matches the"),
        ({"push_origin": -0.1}, "push_origin: .* 0 or more, got -0.1"),
        ({"embedding": "pooled"}, "expected one of tokens, eos"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(NearsafeError, match=message):
        defence(**changes)


def test_the_undefended_anchors_are_those_of_the_paper():
    """des.md section 7, test 10: SD v1.5 without a defence, on full prompt sets. Ours are never compared with them."""
    sql = (Path(sources.__file__).parent / "sql" / "published.sql").read_text(encoding="utf-8")
    published = duckdb.sql(sql)  # noqa: F841  read by its name below
    rows = duckdb.sql("""SELECT benchmark, metric, value FROM published
        WHERE paper = 'DES' AND source IN ('Table 1', 'Table 2') AND method = 'SD v1.5'""").fetchall()
    found = {(benchmark, metric): value for benchmark, metric, value in rows}
    assert (found["COCO 10k", "FID"], found["COCO 10k", "CLIP score"]) == (16.57, 26.46)
    attacks = ("SneakyPrompt", "MMA-Diffusion", "Ring-A-Bell", "P4D")
    assert [found[name, "ASR"] for name in attacks] == [45.16, 73.93, 98.13, 94.93]
