"""The paraphrase adversary: its choice against brute force, its wordings, the filter, the stage on a small world."""

import numpy as np
import pytest
import torch

from pipeline.attacks.paraphrase import candidates, choose
from pipeline.errors import NearsafeError
from pipeline.layout import Data, table_file
from pipeline.models.clip import load_clip
from pipeline.tables import Output, read_output
from pipeline.targets import mining_pool
from pipeline.world.grammar import TEMPLATES, caption, parse, unsafe_edit
from pipeline.world.paraphrasing import GrammarParaphraser
from pipeline.world.scenes import Scene
from stages import embed, paraphrase, world
from tests.models.tiny import save_clip

SCENE = Scene("cat", "red", "forest", "rainy", "big", "plane", "knife")


def cosines(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


def test_the_choice_is_that_of_brute_force():
    random = torch.Generator().manual_seed(0)
    counts = [3, 1, 7, 2]
    wordings, pool, truth = (torch.randn(n, 6, generator=random) for n in (13, 20, 4))
    found = choose(wordings, counts, pool, truth, draws=[0, 5, 13, 1])
    choice, control = found["adversarial"], found["random"]
    assert control.chosen.tolist() == [1, 0, 2, 1], "not the caption itself, where there is another wording"
    start = 0
    for caption_, count in enumerate(counts):
        nearest = cosines(wordings[start : start + count], pool).argmax(1)
        aims = cosines(truth[caption_ : caption_ + 1], pool[nearest])[0]
        assert choice.chosen[caption_] == aims.argmin()
        assert choice.before[caption_].item() == pytest.approx(aims[0])
        assert choice.after[caption_].item() == pytest.approx(aims.min())
        assert control.after[caption_].item() == pytest.approx(aims[control.chosen[caption_]])
        start += count


def test_a_tie_goes_to_the_first_wording_so_nothing_changes_without_gain():
    pool = torch.tensor([[1.0, 0], [0, 1.0]])
    wordings = torch.tensor([[1.0, 0.2], [3.0, 0.1], [0.1, 1.0], [0.2, 2.0]])
    choice = choose(wordings, [2, 2], pool, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [0, 0])["adversarial"]
    assert choice.chosen.tolist() == [0, 0]
    assert choice.before.tolist() == choice.after.tolist() == [1, 0]
    with pytest.raises(ValueError, match="sum to 4"):
        choose(wordings, [2, 1], pool, torch.ones(2, 2), [0, 0])


def test_wordings_mean_the_same_and_are_all_that_the_grammar_has():
    for style, templates in TEMPLATES.items():
        for template in range(len(templates)):
            for synonym in range(3):
                text = caption(SCENE, style, template, synonym)
                (found,) = GrammarParaphraser().paraphrase([text])
                assert text in found and {parse(other) for other in found} == {SCENE}
    assert len(found) == len(set(found)) == 3 * sum(map(len, TEMPLATES.values()))
    assert GrammarParaphraser().paraphrase(["a thing nobody wrote"]) == [[]]


class Words:
    name = "words"

    def __init__(self, *others):
        self.others = list(others)

    def paraphrase(self, captions):
        return [self.others for _ in captions]


def test_age_words_drop_a_wording_and_are_counted():
    kept, (row,) = candidates(["a knife"], Words("a blade", "a blade for a toddler", "a knife"))
    assert kept == [["a knife", "a blade"]]
    assert (row["n_before"], row["n_dropped"], row["n_after"]) == (3, 1, 2)
    with pytest.raises(NearsafeError, match="refuses the caption"):
        candidates(["a toddler"], Words())


def test_the_pool_is_every_safe_caption_once_in_order_of_pairs():
    assert list(mining_pool([("p2", "b"), ("p0", "a"), ("p1", "b"), ("p3", "c")])) == ["a", "b", "c"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A drawn world, its embeddings by a random model, and eight unsafe edits of its benchmark captions."""
    root = tmp_path_factory.mktemp("paraphrase")
    params, data = root / "params.yaml", Data(root / "data")
    params.write_text(
        "seed: 0\nembed: {batch_size: 64}\nparaphrase: {batch_size: 64}\n"
        "world: {train_pairs: 30, test_pairs: 2, benchmark_scenes: 8, zero_shot_images: 2, prompts: 2, "
        "validation_scenes: 1, pool_unsafe: 1, pool_ratio: 1}\nsources: {}\n"
    )
    save_clip(root / "clip")
    world.main(params, data.world)
    embed.main(params, data.world, root / "clip", data.embeddings)
    captions, pairs = [], []
    for row in read_output(data.world, "captions").to_pylist():
        if row["split"] == "benchmark":
            unsafe = row | {"caption_id": f"u-{row['caption_id']}", "text": unsafe_edit(row["text"], "knife")}
            captions += [row, unsafe | {"unsafe": True}]
            ids = {"safe_caption_id": row["caption_id"], "unsafe_caption_id": unsafe["caption_id"]}
            ids |= {"safe_image_id": None, "unsafe_image_id": None}
            facts = {"category": "weapons", "split": "benchmark", "tightness": "tight", "similarity": None}
            pairs.append({"pair_id": f"p{len(pairs)}", **ids, **facts})
    output = Output(data.nsfwcaps, {"stage": "build_nsfwcaps"})
    output.write(table_file("captions"), "captions", captions)
    output.write(table_file("pairs"), "pairs", pairs)
    output.finish()
    return root, params, data


def run_stage(made, out, clip="clip"):
    root, params, data = made
    paraphrase.main(params, data.world, data.embeddings, data.nsfwcaps, root / clip, out)


def test_the_stage_writes_the_same_scene_in_words_that_mislead_no_less(made, tmp_path):
    run_stage(made, tmp_path / "out")
    rows = read_output(tmp_path / "out", "paraphrases").to_pylist()
    captions = {row["caption_id"]: row["text"] for row in read_output(made[2].nsfwcaps, "captions").to_pylist()}
    assert {row["caption_id"] for row in rows} == {item for item in captions if item.startswith("u-")}
    for row in rows:
        assert parse(row["text"]) == parse(captions[row["caption_id"]])
        assert row["candidates"] == 24 and row["cosine_after"] <= row["cosine_before"]
    assert any(row["cosine_after"] < row["cosine_before"] for row in rows)
    (counted,) = read_output(tmp_path / "out", "filters").to_pylist()
    assert (counted["n_before"], counted["n_dropped"]) == (24 * 8, 0)
    run_stage(made, tmp_path / "again")
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (tmp_path / "out" / "manifest.json").read_bytes()


def test_the_pool_is_that_of_mining(made):
    """No unsafe caption, and none of another split, can be aimed at."""
    root, _, data = made
    pool = paraphrase.safe_pool(paraphrase.safe_captions(data.world), data.embeddings, load_clip(root / "clip"))
    captions = read_output(data.world, "captions").to_pylist()
    assert len(pool) == sum(row["split"] == "train" and not row["unsafe"] for row in captions)


def test_embeddings_of_another_model_are_refused(made, tmp_path):
    root, _, _ = made
    save_clip(root / "other", seed=1)
    with pytest.raises(NearsafeError, match="made by another model"):
        run_stage(made, tmp_path / "out", clip="other")


def test_a_benchmark_without_the_split_has_no_paraphrases(made, tmp_path, capsys):
    """As that of a user who has ViSU alone: its split is `test`."""
    root, _, data = made
    params = tmp_path / "params.yaml"
    params.write_text("seed: 0\nparaphrase: {split: validation}\n")
    paraphrase.main(params, data.world, data.embeddings, data.nsfwcaps, root / "clip", tmp_path / "out")
    assert read_output(tmp_path / "out", "paraphrases", allow_empty=True).num_rows == 0
    assert "no paraphrase: the benchmark has no pair of split 'validation'; the attack" in capsys.readouterr().out
