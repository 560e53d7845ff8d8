"""Hostile model folders: each is refused in one line that names it, and nothing is written."""

import json
import math
import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from struct import pack

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.hostile_folders import KINDS, edit, kept, make, refused, reheader, reweigh
from tests.faults.record import record

TRIED, SURVIVED = Counter(), Counter()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of each kind, made when it is first asked for. Who spoils a file puts it back."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = make(kind, tmp_path_factory.mktemp("hostile"))
            assert refused(kind, made[kind]) is None
        return made[kind]

    return get


@pytest.fixture(scope="module", autouse=True)
def _tally():
    """One line a subject for docs/reliability.md."""
    yield
    for subject, tried in TRIED.items():
        record(subject, tried, SURVIVED[subject])


@contextmanager
def counted(subject: str):
    TRIED[subject] += 1
    yield
    SURVIVED[subject] += 1


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def first(header: dict) -> dict:
    """The entry of a tensor of several numbers."""
    return next(entry for name, entry in header.items() if name != "__metadata__" and math.prod(entry["shape"]) > 4)


# What is done to the weight file, and what the error says of it.
SPOILT_WEIGHTS = {
    "a tensor is missing": (lambda file: reweigh(file, lambda _: None), "missing|Missing|is of a model of"),
    "another shape": (
        lambda file: reweigh(file, lambda t: t.flatten()[:7].clone()), "shape|config.json (says|is of)|in .*base",
    ),
    "NaN": (lambda file: reweigh(file, lambda t: t * math.nan), "holds NaN or infinite"),
    "infinite": (lambda file: reweigh(file, lambda t: t + math.inf), "holds NaN or infinite"),
    "whole numbers": (lambda file: reweigh(file, lambda t: t.to(torch.int32)), "is of type I32|hazard detector"),
    "truncated": (lambda file: cut(file, file.stat().st_size - 3), "safetensors|header|hazard detector"),
    "the header alone": (lambda file: cut(file, 60), "safetensors|header|hazard detector"),
    "empty": (lambda file: cut(file, 0), "safetensors|header|hazard detector"),
    "a header longer than the file": (
        lambda file: file.write_bytes(pack("<Q", 2**62) + file.read_bytes()[8:]), "safetensors|header|hazard detector",
    ),
    "another type in the header": (
        lambda file: reheader(file, lambda h: first(h).update(dtype="I8")), "safetensors|header|hazard detector",
    ),
    "a larger shape in the header": (
        lambda file: reheader(file, lambda h: first(h).update(shape=[2**40, 2**40])),
        "safetensors|header|hazard detector",
    ),
    "tensors that overlap": (
        lambda file: reheader(file, lambda h: first(h).update(data_offsets=[0, 4])),
        "safetensors|header|hazard detector",
    ),
}  # fmt: skip
# A file that is put beside the model, and what the error says.
BESIDE = {
    **{name: (b"\x80\x04.", f"{name}: is a pickle and is never loaded")
       for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "weights.PKL", "deep/er/model.pth")},
    **{name: (b"print(1)", f"{name}: is code") for name in ("modeling_own.py", "deep/own.pyc", "own.so")},
    "adapter_config.json": (b'{"base_model_name_or_path": "/etc"}', "an adapter that is not merged"),
    "tokenizer_config.json": (b'{"auto_map": {"AutoTokenizer": "own.Own"}}', "auto_map: it wants code of its own"),
    "preprocessor_config.json": (b'{"a": [{"trust_remote_code": true}]}', "trust_remote_code: it wants code of"),
}  # fmt: skip
# Keys of config.json, and what the error says.
CONFIGS = {
    "code of its own": ({"auto_map": {"AutoModel": "own.Own"}}, "config.json: auto_map: it wants code of its own"),
    "huge": ({"hidden_size": 10**30, "width": 10**30}, "is 1000.*, which no model has"),
    "many layers": ({"num_hidden_layers": 10**6, "layers_per_block": 10**6}, "is 1000000, which no model has"),
    "fewer than none": ({"num_hidden_layers": -1}, "num_hidden_layers is -1, which no model has"),
    "a long list": ({"labels": ["none"] * 10**5, "block_out_channels": [8] * 10**5}, "has 100000 items"),
}
BYTES = {
    "not JSON": (b"{hidden", "config.json: not a readable configuration"),
    "a list": (b"[1, 2]", "config.json: not a configuration: expected an object"),
    "not text": (b"\xff\xfe\x00", "config.json: not a readable configuration"),
    "very deep": (b'{"a":' * 10**5, "config.json: not a readable configuration"),
    "a number of 5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "config.json: not a readable configuration"),
}


def check(kind: str, folder: Path, words: str) -> None:
    """One refusal, with `words` in it."""
    with counted("model folders spoilt by hand"):
        said = refused(kind, folder)
        assert said is not None, "it was loaded"
        assert re.search(words, said), said


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_the_models_are_refused(good, kind):
    folder = good(kind)
    file = folder / KINDS[kind].weights
    for how, (spoil, words) in SPOILT_WEIGHTS.items():
        if kind == "detector" and how == "whole numbers":
            continue  # it casts them, as its own counters
        with kept(file):
            spoil(file)
            check(kind, folder, words)


@pytest.mark.parametrize("kind", ["clip", "text encoder", "llava", "imported", "detector"])
def test_pickles_and_code_are_refused_beside_good_weights_and_in_their_place(good, kind):
    folder = good(kind)
    for name, (content, words) in BESIDE.items():
        file = folder / name
        with kept(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            check(kind, folder, words)
    weights = folder / KINDS[kind].weights
    with kept(weights), kept(weights.with_name("pytorch_model.bin")):
        weights.rename(weights.with_name("pytorch_model.bin"))
        check(kind, folder, "pytorch_model.bin: is a pickle and is never loaded")


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_no_model_has_are_refused(good, kind):
    folder = good(kind)
    file = folder / KINDS[kind].config
    for values, words in CONFIGS.values():
        with kept(file):
            edit(file, **values)
            check(kind, folder, words)
    for content, words in BYTES.values():
        with kept(file):
            file.write_bytes(content)
            check(kind, folder, words)


def test_an_index_with_code_of_its_own_is_refused(good):
    folder = good("diffusion")
    for values, words in (
        ({"_class_name": ["own_pipeline", "OwnPipeline"]}, "_class_name is .*own_pipeline"),
        ({"_class_name": ...}, "_class_name is None"),
        ({"unet": ["own_unet", "OwnUnet"]}, "unet: 'own_unet' is code of its own"),
        ({"text_encoder": ["transformers", "BertModel"]}, "class 'BertModel' is not supported"),
        ({"text_encoder": "CLIPTextModel"}, "text_encoder: expected a library and a class"),
        ({"text_encoder": [["transformers"], {}]}, "text_encoder: expected a library and a class"),
        ({"custom_pipeline": "own"}, "custom_pipeline: it wants code of its own"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2: no such text encoder"),
    ):  # fmt: skip
        with kept(folder / "model_index.json"):
            edit(folder / "model_index.json", **values)
            check("diffusion", folder, words)
    for file, cls in (("unet/config.json", "OwnUnet"), ("vae/config.json", "OwnVae")):
        with kept(folder / file):
            edit(folder / file, _class_name=cls)
            check("diffusion", folder, f"'{cls}'.* is not supported")


@pytest.mark.parametrize("kind", ["clip", "text encoder"])
def test_a_tokenizer_that_is_not_the_models_is_refused(good, kind):
    folder = good(kind)
    words = folder / KINDS[kind].words
    fast = json.loads((words / "tokenizer.json").read_text())
    vocabulary = words / "vocab.json"
    with kept(words / "tokenizer.json"), kept(vocabulary), kept(words / "merges.txt"):
        (words / "tokenizer.json").unlink()
        vocabulary.unlink(missing_ok=True)
        check(kind, folder, "no tokenizer.json or vocab.json")
        vocabulary.write_text(json.dumps(fast["model"]["vocab"]))
        (words / "merges.txt").unlink(missing_ok=True)
        check(kind, folder, "vocab.json without merges.txt")
    with kept(words / "tokenizer.json"):
        fast["model"]["vocab"] |= {f"more{i}": 1000 + i for i in range(9)}
        (words / "tokenizer.json").write_text(json.dumps(fast))
        check(kind, folder, "more tokens than the model|end token")
    with kept(words / "tokenizer.json"):
        (words / "tokenizer.json").write_text('{"version": "1.0"')
        check(kind, folder, "not a loadable tokenizer")
    with kept(words / "tokenizer_config.json"):
        edit(words / "tokenizer_config.json", pad_token=None)
        check(kind, folder, "the tokenizer has no pad_token")


def test_a_llava_without_its_tokens_or_pixels_is_refused(good):
    folder = good("llava")
    for file, values, words in (
        ("tokenizer_config.json", {"eos_token": None}, "no eos_token"),
        ("config.json", {"image_token_index": 2, "image_token_id": 2}, "<image> is 3, the model's image_token_index 2"),
        ("generation_config.json", {"eos_token_id": 10**6}, "eos_token_id is 1000000, no token of the model"),
        ("generation_config.json", {"bos_token_id": "64"}, "bos_token_id is '64', no token of the model"),
        ("preprocessor_config.json", {"crop_size": {"height": 64, "width": 1}}, "gives .*, the vision tower takes"),
        ("preprocessor_config.json", {"image_mean": [1, 2]}, "not a loadable image processor"),
        ("config.json", {"model_type": "clip"}, "model_type 'clip', expected 'llava'"),
    ):  # fmt: skip
        with kept(folder / file):
            edit(folder / file, **values)
            check("llava", folder, words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": {"shortest_edge": 72}}, "size is .*, expected the shortest edge to be 64"),
        ({"size": {"height": 64, "width": 64}}, "size is .*, expected the shortest edge to be 64"),
        ({"crop_size": {"height": 64, "width": 48}}, "crop_size is .*, expected 64 times 64"),
        ({"do_resize": False}, "do_resize is False, expected True"),
        ({"do_center_crop": False}, "do_center_crop is False, expected True"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"rescale_factor": 1}, "rescale_factor is 1"),
        ({"resample": 17}, "resample is 17, expected 0 to 5"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is .*, expected three numbers"),
        ({"image_mean": [0.5, 0.5, math.nan]}, "image_mean is .*, expected three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std is .*, expected three numbers"),
        ({"image_mean": ...}, "image_mean is None, expected three numbers"),
    ],
)
def test_an_image_path_that_is_not_ours_is_refused(good, values, words):
    folder = good("clip")
    with kept(folder / "preprocessor_config.json"):
        edit(folder / "preprocessor_config.json", **values)
        check("clip", folder, words)


# -- fuzz

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 80), st.sampled_from([2**20, 2**31, 10**30, -(10**30)]),
    st.floats(), st.text(max_size=8), st.lists(st.integers(0, 70), max_size=3), st.just({}), st.just({"a": 1}),
)  # fmt: skip
FUZZED = ("clip", "diffusion", "llava", "imported")
QUICK = settings(
    max_examples=5, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
LONG = settings(QUICK, max_examples=300)
_NAMES = ("config.json", "model_index.json", "scheduler_config.json", "preprocessor_config.json",
          "processor_config.json", "tokenizer_config.json", "generation_config.json")  # fmt: skip


def places(found: object, way: tuple = ()) -> list[tuple]:
    """The paths to every value of a JSON object."""
    if not isinstance(found, dict):
        return []
    return [place for key, value in found.items() for place in [(*way, key), *places(value, (*way, key))]]


def fuzz_settings(kind: str, folder: Path, data: st.DataObject) -> None:
    """One setting of one file exchanged, removed or new: refused in one line, or the model works."""
    found = sorted(file for file in folder.rglob("*.json") if file.name in _NAMES)
    file = data.draw(st.sampled_from(found), "file")
    content = json.loads(file.read_text())
    ways = [*places(content), ("new",)]
    *way, key = data.draw(st.sampled_from(ways), "place")
    inner = content
    for step in way:
        inner = inner[step]
    if data.draw(st.integers(0, 9)) or key not in inner:
        inner[key] = data.draw(VALUES, "value")
    else:
        del inner[key]
    with kept(file):
        file.write_text(json.dumps(content))
        with counted(f"{kind} folder: settings fuzzed"):
            refused(kind, folder)  # anything but one line, or a model that works, is raised


def fuzz_bytes(kind: str, folder: Path, data: st.DataObject) -> None:
    """Up to four bytes of a weight file exchanged, half of the time in its header."""
    file = data.draw(st.sampled_from(sorted(folder.rglob("*.safetensors"))), "file")
    content = bytearray(file.read_bytes())
    end = data.draw(st.sampled_from([min(2000, len(content)), len(content)]))
    for at in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=4), "at"):
        content[at] = data.draw(st.integers(0, 255), "byte")
    with kept(file):
        file.write_bytes(content)
        with counted(f"{kind} folder: bytes of weights fuzzed"):
            refused(kind, folder)


@pytest.mark.parametrize("kind", FUZZED)
@QUICK
@given(data=st.data())
def test_fuzzed_settings_quick(good, kind, data):
    fuzz_settings(kind, good(kind), data)


@pytest.mark.parametrize("kind", FUZZED)
@QUICK
@given(data=st.data())
def test_fuzzed_weights_quick(good, kind, data):
    fuzz_bytes(kind, good(kind), data)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
@LONG
@given(data=st.data())
def test_fuzzed_settings(good, kind, data):
    fuzz_settings(kind, good(kind), data)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
@LONG
@given(data=st.data())
def test_fuzzed_weights(good, kind, data):
    fuzz_bytes(kind, good(kind), data)
