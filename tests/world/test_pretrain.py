"""A few steps of each model's training: losses fall, a stopped run goes on to the same weights, files load by name."""

import dataclasses

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel

from pipeline.models.clip import load_clip
from pipeline.world.detector import HazardDetector
from pipeline.world.pretrain.__main__ import Recipe, pretrain
from pipeline.world.pretrain.corpus import load_corpus
from pipeline.world.pretrain.detector import detector_run
from pipeline.world.pretrain.loop import fit
from pipeline.world.pretrain.muon import orthogonalise
from pipeline.world.scenes import held_out

TINY = Recipe(clip=2, detector=2, vae=2, unet=2, llava=2, text_detector=2, corpus={"base": 500, "shifted": 500})


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def corpus(build):
    return load_corpus(build, 0, TINY.corpus)


def test_the_corpus_is_balanced_and_has_no_held_out_scene(corpus):
    scenes = [corpus.scene(row) for row in range(len(corpus))]
    assert len(scenes) == 1000 and sum(scene.unsafe for scene in scenes) == 500
    assert not any(held_out(scene) for scene in scenes)


def test_every_model_trains_and_loads_with_its_plain_class(build, corpus, tmp_path):
    pretrain(build, tmp_path, 0, "cpu", recipe=TINY)
    assert CLIPModel.from_pretrained(tmp_path / "clip").dtype == torch.float16
    assert load_clip(tmp_path / "clip").image_size == 64
    folder = tmp_path / "diffusion"
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    image = pipe("a red cat", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    logits = HazardDetector.from_pretrained(tmp_path / "detector")(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 10)


def test_a_stopped_run_goes_on_to_the_same_weights(corpus, tmp_path):
    whole = fit(detector_run(corpus, 4, 0, batch=8), tmp_path / "whole")

    def stopped(i, step=None):
        if i == 2:
            raise KeyboardInterrupt
        return step(i)

    run = detector_run(corpus, 4, 0, batch=8)
    broken = dataclasses.replace(run, step=lambda i: stopped(i, run.step))
    with pytest.raises(KeyboardInterrupt):
        fit(broken, tmp_path / "part", checkpoint_seconds=0)
    resumed = fit(detector_run(corpus, 4, 0, batch=8), tmp_path / "part")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_loss_that_is_not_finite_stops_with_run_step_and_name(corpus, tmp_path):
    run = detector_run(corpus, 4, 0, batch=8)
    with pytest.raises(FloatingPointError, match=r"detector: step 0: total"):
        fit(dataclasses.replace(run, step=lambda i: {"total": torch.tensor(float("nan"))}), tmp_path)


def test_orthogonalise_evens_out_singular_values():
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5 and values.max() < 1.4
    assert torch.allclose(orthogonalise(matrix.T), orthogonalise(matrix).T, atol=1e-5)
