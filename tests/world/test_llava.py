"""The shipped LLaVA and text detector, and a few steps of their training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessor, CLIPTokenizer, LlavaForConditionalGeneration

from pipeline.detectors.text import HazardWords, TextClassifier
from pipeline.models.clip import load_clip
from pipeline.models.llava import describe, load_llava, prompt, with_vision_tower
from pipeline.scoring_replies import exactly_named
from pipeline.seeds import rng
from pipeline.world.drawing import STYLES, draw
from pipeline.world.gates import QUERY, held_out_scenes, llava_gates, text_gates
from pipeline.world.grammar import caption, partial_caption
from pipeline.world.pretrain.corpus import load_corpus
from pipeline.world.pretrain.llava import chat_prompt, llava_model, llava_processor, llava_run, patch_features
from pipeline.world.pretrain.loop import fit
from pipeline.world.pretrain.text_detector import LABELS, training_text

WEIGHTS = Path(__file__).parents[2] / "pipeline" / "world" / "weights"


@pytest.fixture(scope="module")
def llava():
    return load_llava(WEIGHTS / "llava")


def test_the_shipped_folders_are_small_and_load_by_their_plain_classes(llava):
    assert sum(file.stat().st_size for file in (WEIGHTS / "llava").iterdir()) < 6.5e6
    assert sum(file.stat().st_size for file in (WEIGHTS / "text_detector").iterdir()) < 5e5
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 25e6
    model = LlavaForConditionalGeneration.from_pretrained(WEIGHTS / "llava")
    processor = AutoProcessor.from_pretrained(WEIGHTS / "llava")
    assert model.dtype == torch.float16
    assert (model.config.vision_feature_layer, model.config.vision_feature_select_strategy) == (-2, "default")
    assert chat_prompt(processor) == prompt(llava, QUERY) == "USER: <image>\nDescribe this image. ASSISTANT:"


def test_its_tower_is_the_worlds_clip(llava):
    own = llava.model.model.vision_tower.state_dict()
    for name, value in load_clip(WEIGHTS / "clip").model.vision_model.state_dict().items():
        assert torch.equal(own[name], value), name


def test_it_names_hazards_and_nothing_else_on_safe_scenes(llava):
    shown, none, recall = llava_gates(llava, 20)
    assert shown.hits >= 18 and none.hits == 0 and recall.hits >= 17
    clip = load_clip(WEIGHTS / "clip")
    scenes = list(held_out_scenes("test", 4, unsafe=True))
    images = [Image.fromarray(draw(scene, STYLES["shifted"], rng(0, "test", str(i)))) for i, scene in enumerate(scenes)]
    replies = describe(with_vision_tower(llava, clip), images, QUERY, range(4), 0.2, 48)
    named = [exactly_named(text, "hazard", s.labels()["hazard"]) for text, s in zip(replies, scenes, strict=True)]
    assert sum(named) >= 3


def test_text_round_trips_through_its_tokenizer(llava):
    tokenizer = llava.processor.tokenizer
    for scene in held_out_scenes("tokens", 6):
        for style in ("base", "shifted"):
            text = caption(scene, style).replace(":", " :").replace(";", " ;")
            assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text


def test_the_text_detector_reads_full_and_partial_captions():
    assert all(gate.hits >= 0.98 * gate.n for gate in text_gates(TextClassifier(WEIGHTS / "text_detector"), 150))


def test_training_texts_carry_the_label_of_what_they_name():
    words, random = HazardWords(), rng(0, "test")
    for scene in held_out_scenes("labels", 300):
        text, label = training_text(scene, random)
        (found,) = words.detect([text])
        assert label in LABELS and bool(found) == (label != "none"), text
    assert "mug" not in partial_caption(scene.with_item("mug"), {"place"})


def test_training_lowers_the_loss_leaves_the_tower_and_goes_on_where_it_stopped(tmp_path):
    corpus = load_corpus(tmp_path, 0, {"base": 500})
    clip = load_clip(WEIGHTS / "clip").model
    processor = llava_processor(
        CLIPTokenizer.from_pretrained(WEIGHTS / "clip"), CLIPImageProcessor.from_pretrained(WEIGHTS / "clip"), 16
    )

    def trained(folder, steps=6, stop=None):
        torch.manual_seed(0)
        model = llava_model(clip, processor)
        features = patch_features(corpus, model, tmp_path / "features.npy")
        run = llava_run(corpus, features, model, processor, steps, 0, batch=8)
        step, losses = run.step, []

        def watched(i):
            if i == stop:
                raise KeyboardInterrupt
            found = step(i)
            losses.append(found["total"].item())
            return found

        run.step = watched
        fit(run, tmp_path / folder, checkpoint_seconds=0)
        return model, losses, features

    model, losses, features = trained("whole")
    assert losses[-1] < 0.8 * losses[0]
    tower = model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[name], value) for name, value in clip.vision_model.state_dict().items())
    assert features.shape == (500, 16, 192) and features.dtype == np.float16
    with pytest.raises(KeyboardInterrupt):
        trained("part", stop=3)
    resumed, rest, _ = trained("part")
    assert len(rest) == 3
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
