"""Generation with a model of several text encoders: where the defended tower goes, and what the rows say of it."""

from dataclasses import replace

import pytest

from pipeline.defences.registry import read_defence
from pipeline.errors import NearsafeError
from pipeline.generation import generate_defence
from pipeline.images import decode_image
from pipeline.layout import SPEC
from pipeline.params import load
from pipeline.tables import read_output
from tests.models.tiny_families import save_donor, save_family
from tests.worldlet import make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    worldlet = make(tmp_path_factory.mktemp("worldlet"))
    return worldlet, save_family("sdxl", tmp_path_factory.mktemp("models"))


def run(made, out, line, kind="none"):
    worldlet, diffusion = made
    params = out.parent / f"{out.name}.yaml"
    params.write_text(f"{worldlet.params.read_text()}\nsdxl: {{steps: 2, guidance: 5.0, {line}}}\n")
    data, lines = worldlet.data, []
    defence = replace(read_defence(params, "original"), kind=kind)
    generate_defence(
        params, defence, data.prompts, data.checkpoints("original"), diffusion, out, lines.append, "sdxl", only=[0]
    )
    return read_output(out, "generations").to_pylist(), lines


def pixels(rows):
    return [decode_image(row["image"], "x").tobytes() for row in rows]


def test_towers_and_precision_change_the_images_and_are_recorded(made, tmp_path):
    second = save_donor(tmp_path / "second", "sdxl", "text_encoder_2")
    own, lines = run(made, tmp_path / "own", "prompt_sets: [world_safe]")
    assert {(row["status"], row["sampler"], row["dtype"]) for row in own} == {
        ("ok", "EulerDiscreteScheduler", "float32")
    }
    assert "fp32: the default on a CPU" in lines[0]
    towers = f"prompt_sets: [world_safe], towers: {{text_encoder_2: {second}}}"
    other, _ = run(made, tmp_path / "other", towers, kind="trained")
    undefended, _ = run(made, tmp_path / "undefended", towers)
    assert pixels(undefended) == pixels(own), "a defended tower is none of the undefended model's"
    half, lines = run(made, tmp_path / "half", "prompt_sets: [world_safe], precision: bf16")
    assert {row["dtype"] for row in half} == {"bfloat16"} and "bf16: as configured" in lines[0]
    assert len({row["model_hash"] for row in (*own, *other)}) == 2
    assert not set(pixels(own)) & set(pixels(other))
    assert "text_encoder_2" in load(tmp_path / "other" / SPEC)["inputs"]


def test_a_slot_that_the_model_does_not_have_is_one_error(made, tmp_path):
    with pytest.raises(NearsafeError, match="no slot 'text_encoder_3' for a text tower; slots: text_encoder, text_enc"):
        run(made, tmp_path / "out", "towers: {text_encoder_3: null}")
