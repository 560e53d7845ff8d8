"""The defences' terms and the registry that finds them."""

from dataclasses import replace

import pytest
import torch

from pipeline.defences import clip_safe_data, nearsafe, safe_clip, safer_clip
from pipeline.defences.losses import cosine_distance, info_nce
from pipeline.defences.protocol import Batch, Frozen, Weights
from pipeline.defences.registry import make_defence, methods, read_defence
from pipeline.errors import NearsafeError
from tests.learning import save_params

LAMBDAS = Weights(0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5)
ONES = Weights(*[1.0] * 8)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(6)
    frozen = pool(generator)
    own = nearsafe.targets(frozen, nearsafe.Params())
    embeddings = (torch.randn(5, 8, generator=generator) for _ in range(10))
    return Batch(*embeddings, own={name: table[:5] for name, table in own.items()}, frozen=frozen)


def pool(generator: torch.Generator) -> Frozen:
    """Seven pairs of two categories, two nearest each."""
    unit = (torch.nn.functional.normalize(torch.randn(7, 8, generator=generator), dim=1) for _ in range(4))
    nearest = torch.randint(0, 7, (7, 2), generator=generator)
    return Frozen(*unit, nearest, torch.tensor([0, 1, 0, 1, 0, 1, 1]))


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


def test_aliased_and_proximity_exclude_each_other():
    assert safe_clip.reference(safe_clip.Params(LAMBDAS)) == "frozen"
    with pytest.raises(ValueError, match="proximity needs the frozen reference"):
        safe_clip.Params(LAMBDAS, variant="aliased", proximity=True)


def test_safe_clip_with_proximity_moves_only_the_redirection_targets(batch):
    plain = safe_clip.terms(batch, safe_clip.Params(LAMBDAS))
    near = safe_clip.terms(batch, safe_clip.Params(LAMBDAS, proximity=True))
    assert {name for name in plain if plain[name][1] != near[name][1]} == {n for n in plain if "redirect" in n}
    assert near["text_redirect_uni"][1].item() == cosine_distance(batch.text_unsafe, batch.prox_text).item()
    same = replace(batch, prox_text=batch.ref_text_safe, prox_image=batch.ref_image_safe)
    assert total(safe_clip.terms(same, safe_clip.Params(LAMBDAS, proximity=True))) == total(plain)


@pytest.mark.parametrize("module", [safe_clip, safer_clip])
def test_redirection_scales_the_redirection_weights_alone(module, batch):
    one, two = (module.terms(batch, module.Params(LAMBDAS, redirection=r)) for r in (1.0, 2.0))
    share = {name: two[name][0] / one[name][0] for name in one}
    redirect = {v for n, v in share.items() if "redirect" in n}
    preserve = {v for n, v in share.items() if "preserve" in n}
    assert all(a / b == pytest.approx(2) for a in redirect for b in preserve)


def test_clip_safe_data_never_looks_at_unsafe_items(batch):
    b = trained(batch)
    total(clip_safe_data.terms(b, clip_safe_data.Params())).backward()
    assert b.text_unsafe.grad is None and b.image_unsafe.grad is None
    assert b.text_safe.grad.abs().sum() > 0 and b.image_safe.grad.abs().sum() > 0
    expected = info_nce(batch.text_safe, batch.image_safe)
    assert total(clip_safe_data.terms(batch, clip_safe_data.Params())).item() == expected.item()


def test_removing_harm_moves_the_mean_of_a_category_to_the_safe_mean():
    """With alpha 1, before lengths are made 1: mean(u - (mean u - mean s)) = mean s. Checked on rows written out."""
    unsafe = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    safe = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [-0.6, 0.8]])
    category = torch.tensor([4, 4, 9])
    moved = nearsafe.remove_harm(unsafe, safe, category, 1.0)
    mean = safe.mean(0)
    rows = [unsafe[0] - (unsafe[:2].mean(0) - mean), unsafe[1] - (unsafe[:2].mean(0) - mean), mean]
    for got, row in zip(moved, rows, strict=True):
        torch.testing.assert_close(got, row / row.norm())
    assert torch.equal(nearsafe.remove_harm(unsafe, safe, category, 0.0), unsafe / unsafe.norm(dim=1, keepdim=True))


def test_kinds_of_harm_are_found_without_labels():
    """Two kinds of harm, each one direction added to safe embeddings: the clusters are the kinds."""
    generator = torch.Generator().manual_seed(1)
    safe = torch.nn.functional.normalize(torch.randn(40, 32, generator=generator), dim=1)
    kind = torch.arange(40) % 2
    harm = torch.eye(32)[:2][kind] * 2
    unsafe = torch.nn.functional.normalize(safe + harm, dim=1)
    frozen = Frozen(safe, unsafe, safe, unsafe, torch.arange(40)[:, None], torch.zeros(40, dtype=torch.int64))
    found = nearsafe.kinds_of_harm(frozen, 2, 0.05)
    assert torch.equal(found, kind) or torch.equal(found, 1 - kind)
    assert torch.equal(nearsafe.kinds_of_harm(frozen, 0, 0.05), frozen.category)


def test_targets_lie_in_the_other_modality(batch):
    """With nothing of the item's own and one neighbour the target is the neighbour's image, or caption."""
    frozen = replace(batch.frozen, nearest=batch.frozen.nearest[:, :1])
    found = nearsafe.targets(frozen, nearsafe.Params(own_share=0.0))
    torch.testing.assert_close(found["of_text"], frozen.image_safe[frozen.nearest[:, 0]])
    torch.testing.assert_close(found["of_image"], frozen.text_safe[frozen.nearest[:, 0]])


def test_nearest_mean_weighs_by_cosine(batch):
    frozen, cold = (
        batch.frozen,
        nearsafe.nearest_mean(batch.frozen, batch.frozen.text_safe, 1e-4, chunk=3),
    )
    cosines = torch.einsum("pd,pkd->pk", frozen.text_unsafe, frozen.text_safe[frozen.nearest])
    best = frozen.nearest[torch.arange(7), cosines.argmax(1)]
    torch.testing.assert_close(cold, frozen.text_safe[best])


def test_distillation_is_zero_for_equal_similarities_and_equals_the_sum_written_out():
    generator = torch.Generator().manual_seed(3)
    a, b, bank = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (4, 4, 9))
    assert nearsafe.distillation(a, 3 * a, bank, 10.0).item() == pytest.approx(0, abs=1e-12)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, b, bank)]
    now, before = (torch.softmax(10 * x @ unit[2].T, 1) for x in unit[:2])
    expected = (before * (before / now).log()).sum(1).mean()
    assert nearsafe.distillation(a, b, bank, 10.0).item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_margin_saturates():
    """Past the margin by 2 the loss is nearly 0; at the margin ln 2 / s; before it it grows with slope 1."""
    query = torch.tensor([[1.0, 0.0]])
    near, far, middle = query, -query, torch.tensor([[0.0, 1.0]])
    loss = nearsafe.margin_redirection
    assert loss(query, far, near, 0.0, 5.0).item() == pytest.approx(0, abs=1e-4)
    assert loss(query, middle, middle, 0.0, 5.0).item() == pytest.approx(0.6931472 / 5, rel=1e-5)
    assert loss(query, near, far, 0.1, 5.0).item() == pytest.approx(2.1, abs=1e-4)
    raw = safer_clip.relative_redirection(query, middle, near)
    assert loss(query, middle, near, 0.0, 1.0).item() == pytest.approx(raw.item())


def test_nearsafe_terms_reach_the_side_they_name_and_live_partners_get_no_gradient(batch):
    names = nearsafe.terms(batch, nearsafe.Params())
    assert len(names) == 12
    for name in names:
        b = trained(batch)
        nearsafe.terms(b, nearsafe.Params())[name][1].backward()
        tower, purpose = name.split("_", 1)
        side = "safe" if purpose in ("preserve", "contrast", "distil") else "unsafe"
        for other in ("text_safe", "text_unsafe", "image_safe", "image_unsafe"):
            grad = getattr(b, other).grad
            assert (grad is not None and grad.abs().sum() > 0) == (other == f"{tower}_{side}"), name
    assert "text_distil" not in nearsafe.terms(batch, nearsafe.Params(distil=0.0))


def test_scales_are_parameters(batch):
    plain = safer_clip.terms(batch, safer_clip.Params(ONES))
    scaled = safer_clip.terms(batch, safer_clip.Params(ONES, rel_scale=10.0, nce_scale=1.0))
    changed = {name for name in plain if plain[name][1] != scaled[name][1]}
    assert changed == {name for name in plain if name.endswith("_cross")}


def test_the_registry_knows_the_modules():
    assert {"original", "safe_clip", "safer_clip", "des"} <= set(methods())
    assert not {"protocol", "losses", "token_losses", "registry"} & set(methods())


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


def test_changes_are_laid_over_an_entry_and_rows_carry_the_label(tmp_path):
    params = save_params(tmp_path / "params.yaml")
    changes = ["redirection=0.5", "train.lr=1e-4", "train.lora.r=7"]
    found = read_defence(params, "safer_clip", changes=changes, label="safer_clip+half")
    assert (found.name, found.params.redirection, found.train["lr"]) == ("safer_clip+half", 0.5, 1e-4)
    assert found.train["curriculum"] is True and found.train["lora"] == {"r": 7}
    for change, message in (("redirection", "expected key=value"), ("nonsense=1", "nonsense: unknown key")):
        with pytest.raises(NearsafeError, match=message):
            read_defence(params, "safer_clip", changes=[change])


def test_entries_of_another_section(tmp_path):
    params = save_params(tmp_path / "params.yaml", ablations={"mine": {"method": "original"}})
    assert read_defence(params, "mine", "ablations").method == "original"
    with pytest.raises(NearsafeError, match="ablations: unknown defence 'safe_clip'; known: mine"):
        read_defence(params, "safe_clip", "ablations")


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    params = save_params(tmp_path / "params.yaml")
    with pytest.raises(NearsafeError, match="unknown defence 'safest'; known: original, safe_clip, safer_clip"):
        read_defence(params, "safest")


@pytest.mark.parametrize(
    "names, message",
    [
        ({"INPUT": "token"}, "INPUT: expected one of pooled, tokens, got 'token'"),
        ({"TOWERS": ("txt",)}, r"TOWERS: expected a tuple of text, vision where INPUT is 'pooled', got \('txt',\)"),
        ({"TOWERS": "text"}, "TOWERS: expected a tuple of text, vision .* got 'text'"),
        ({"TOWERS": ()}, "TOWERS: expected a tuple"),
        ({"INPUT": "tokens", "TOWERS": ("text", "vision")}, "TOWERS: expected a tuple of text where INPUT is 'tokens'"),
    ],
)
def test_a_module_s_input_and_towers_are_checked(names, message, monkeypatch):
    for name, value in names.items():
        monkeypatch.setattr(safer_clip, name, value, raising=False)
    with pytest.raises(NearsafeError, match=f"safer_clip.py: {message}"):
        make_defence("mine", "safer_clip", {"weights": vars(ONES)})


def test_towers_are_both_or_those_that_the_module_names(monkeypatch):
    assert make_defence("mine", "safer_clip", {"weights": vars(ONES)}).towers == ("text", "vision")
    monkeypatch.setattr(safer_clip, "TOWERS", ("vision",), raising=False)
    assert make_defence("mine", "safer_clip", {"weights": vars(ONES)}).towers == ("vision",)


def test_a_method_without_its_functions_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(safer_clip, "terms")
    with pytest.raises(NearsafeError, match="kind 'trained' needs terms"):
        make_defence("mine", "safer_clip", {"weights": vars(ONES)})
