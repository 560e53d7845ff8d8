"""The defences' terms and the registry that finds them."""

from dataclasses import fields, replace

import pytest
import torch

from pipeline.defences import safe_clip, safer_clip
from pipeline.defences.losses import cosine_distance, info_nce
from pipeline.defences.protocol import Batch, Weights
from pipeline.defences.registry import make_defence, methods, read_defence
from pipeline.errors import NearsafeError
from tests.learning import save_params

LAMBDAS = Weights(0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5)
ONES = Weights(*[1.0] * 8)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(6)
    return Batch(*(torch.randn(5, 8, generator=generator) for _ in fields(Batch)))


def trained(batch: Batch) -> Batch:
    names = ("text_safe", "text_unsafe", "image_safe", "image_unsafe")
    return replace(batch, **{name: getattr(batch, name).clone().requires_grad_() for name in names})


def total(terms: dict) -> torch.Tensor:
    return sum(weight * value for weight, value in terms.values())


def test_safe_clip_total_is_the_formula(batch):
    """safe_clip.md section 1, written out from its table: S, U, V, G and their references."""
    b = batch
    expected = (
        (
            0.1 * cosine_distance(b.text_safe, b.ref_text_safe)
            + 0.1 * cosine_distance(b.text_unsafe, b.ref_text_safe)
            + 0.1 * cosine_distance(b.image_safe, b.ref_image_safe)
            + 0.2 * cosine_distance(b.image_unsafe, b.ref_image_safe)
            + 0.25 * info_nce(b.text_safe, b.ref_image_safe)
            + 0.25 * info_nce(b.text_unsafe, b.ref_image_safe)
            + 0.25 * info_nce(b.ref_text_safe, b.image_safe)
            + 0.5 * info_nce(b.ref_text_safe, b.image_unsafe)
        )
        / 1.75
        / 8
    )
    terms = safe_clip.terms(batch, safe_clip.Params(LAMBDAS))
    assert total(terms).item() == pytest.approx(expected.item(), rel=1e-6)


def test_safe_clip_weights_sum_to_one_eighth():
    weights = safe_clip.normalise(LAMBDAS)
    assert sum(weights.values()) * 8 == pytest.approx(1)
    assert weights["image_redirect_cross"] * 8 == pytest.approx(0.2857, abs=1e-4)


def test_safer_clip_total_is_the_formula(batch):
    b, softplus = batch, torch.nn.functional.softplus
    cos = torch.nn.functional.cosine_similarity
    redirect = (
        softplus(cos(b.image_unsafe, b.ref_text_unsafe) - cos(b.image_unsafe, b.prox_text)).mean()
        + softplus(cos(b.text_unsafe, b.ref_image_unsafe) - cos(b.text_unsafe, b.prox_image)).mean()
        + (1 - cos(b.image_unsafe, b.prox_image)).mean()
        + (1 - cos(b.text_unsafe, b.prox_text)).mean()
    )
    preserve = (
        (1 - cos(b.image_safe, b.ref_image_safe)).mean()
        + (1 - cos(b.text_safe, b.ref_text_safe)).mean()
        + info_nce(b.image_safe, b.ref_text_safe)
        + info_nce(b.text_safe, b.ref_image_safe)
    )
    terms = safer_clip.terms(batch, safer_clip.Params(ONES))
    assert total(terms).item() == pytest.approx((redirect + preserve).item(), rel=1e-6)


def test_with_the_pair_itself_as_target_eqs_9_10_are_eqs_3_4(batch):
    same = replace(batch, prox_text=batch.ref_text_safe, prox_image=batch.ref_image_safe)
    proximal = safer_clip.terms(same, safer_clip.Params(ONES))
    rigid = safer_clip.terms(batch, safer_clip.Params(ONES, proximity=False))
    b = batch
    assert proximal["image_redirect_cross"][1].item() == pytest.approx(
        safer_clip.relative_redirection(b.image_unsafe, b.ref_text_unsafe, b.ref_text_safe).item()
    )
    assert proximal["text_redirect_cross"][1].item() == pytest.approx(
        safer_clip.relative_redirection(b.text_unsafe, b.ref_image_unsafe, b.ref_image_safe).item()
    )
    for name, (_, value) in proximal.items():
        assert value.item() == rigid[name][1].item()


@pytest.mark.parametrize("module", [safe_clip, safer_clip])
def test_each_term_reaches_the_side_and_purpose_it_names_and_no_other(module, batch):
    for name in module.terms(batch, module.Params(LAMBDAS)):
        b = trained(batch)
        module.terms(b, module.Params(LAMBDAS))[name][1].backward()
        tower, purpose, _ = name.split("_")
        side = {"preserve": "safe", "redirect": "unsafe"}[purpose]
        for other in ("text_safe", "text_unsafe", "image_safe", "image_unsafe"):
            grad = getattr(b, other).grad
            assert (grad is not None and grad.abs().sum() > 0) == (other == f"{tower}_{side}")


def test_scales_are_parameters(batch):
    plain = safer_clip.terms(batch, safer_clip.Params(ONES))
    scaled = safer_clip.terms(batch, safer_clip.Params(ONES, rel_scale=10.0, nce_scale=1.0))
    changed = {name for name in plain if plain[name][1] != scaled[name][1]}
    assert changed == {name for name in plain if name.endswith("_cross")}


def test_the_registry_knows_the_modules():
    assert {"original", "safe_clip", "safer_clip"} <= set(methods())
    assert not {"protocol", "losses", "registry"} & set(methods())


def test_entries_are_typed(tmp_path):
    defence = read_defence(save_params(tmp_path / "params.yaml"), "safer_clip")
    assert defence.kind == "trained" and defence.params.weights == ONES and defence.train["curriculum"] is True


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"method": "nonesuch"}, "unknown defence 'nonesuch'; known: .*original, safe_clip, safer_clip"),
        ({}, "defences.mine.method: missing; expected one of"),
        ({"method": "registry"}, "unknown defence 'registry'"),
        ({"method": "original", "weight": 1}, "defences.mine.weight: unknown key"),
        ({"method": "safer_clip"}, "defences.mine.weights: missing"),
        ({"method": "safer_clip", "weights": vars(LAMBDAS) | {"text_redirect_uni": -1.0}}, "weights must be 0 or more"),
        ({"method": "original", "train": 3}, "defences.mine.train: expected a mapping"),
    ],
)
def test_bad_entries_are_named(tmp_path, entry, message):
    params = save_params(tmp_path / "params.yaml", defences={"mine": entry})
    with pytest.raises(NearsafeError, match=message):
        read_defence(params, "mine")


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    params = save_params(tmp_path / "params.yaml")
    with pytest.raises(NearsafeError, match="unknown defence 'safest'; known: original, safe_clip, safer_clip"):
        read_defence(params, "safest")


def test_a_method_without_its_functions_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(safer_clip, "terms")
    with pytest.raises(NearsafeError, match="kind 'trained' needs terms"):
        make_defence("mine", "safer_clip", {"weights": vars(ONES)})
