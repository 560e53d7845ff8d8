"""A chat model folder: its own template, greedy answers that do not depend on the batch, clear errors."""

import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.errors import NearsafeError
from pipeline.rewriting.chat import ChatRewriter
from pipeline.rewriting.instruction import instruct
from pipeline.rewriting.registry import Chat
from pipeline.rewriting.wording import HAZARDS

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<e>{% endif %}"
    "{% if broken %}{{ raise_exception('no such option') }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama of one layer with a tokenizer of single characters."""
    path = tmp_path_factory.mktemp("chat") / "tiny-chat"
    characters = {chr(c): i for i, c in enumerate(range(32, 127))}
    vocabulary = {**characters, **{t: len(characters) + i for i, t in enumerate(("<s>", "<e>", "<unk>"))}}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="<e>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": vocabulary["<s>"], "eos_token_id": vocabulary["<e>"]}
    config = LlamaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=2048, initializer_range=0.5, **shape, **ids
    )
    model = LlamaForCausalLM(config)
    model.generation_config.update(temperature=0.7, top_p=0.5, do_sample=True)
    model.save_pretrained(path)
    return path


CAPTIONS = ["a cup", "a much longer caption of a cup on a table", "a vase"]


def answers(folder, **changes):
    return ChatRewriter(Chat("chat", folder, max_new_tokens=8, precision="fp32", **changes), HAZARDS).rewrite(
        CAPTIONS, ["weapons", "drugs", "weapons"]
    )


def test_answers_are_greedy_whatever_the_folder_says_and_do_not_depend_on_the_batch(folder):
    found = answers(folder)
    assert len(found) == 3 and any(found)
    assert found == answers(folder) == answers(folder, batch_size=1)


def test_the_answer_is_what_the_model_writes_after_the_template(folder):
    rewriter = ChatRewriter(Chat("chat", folder, max_new_tokens=8, precision="fp32"), HAZARDS)
    tokenizer, model = rewriter._loaded
    ids = tokenizer(f"<s>{instruct(CAPTIONS[0], 'weapons', HAZARDS['weapons'])}<e>", return_tensors="pt").input_ids
    for _ in range(8):
        best = model(ids).logits[0, -1].argmax()
        ids = torch.cat([ids, best[None, None]], dim=1)
        if best == tokenizer.eos_token_id:
            break
    written = tokenizer.decode(ids[0, -8:], skip_special_tokens=True).strip()
    assert rewriter.rewrite(CAPTIONS[:1], ["weapons"]) == [written or None]


def test_no_setting_of_the_folder_but_its_tokens_reaches_the_decoding(folder, tmp_path):
    tuned = shutil.copytree(folder, tmp_path / "tuned")
    settings = GenerationConfig.from_pretrained(tuned)
    settings.update(repetition_penalty=5.0, no_repeat_ngram_size=1, min_new_tokens=8, suppress_tokens=[5])
    settings.save_pretrained(tuned)
    assert answers(tuned) == answers(folder)
    assert len(set(answers(folder)[0])) < len(answers(folder)[0])  # there is a repetition to penalise
    own = ChatRewriter(Chat("chat", tuned, precision="fp32"), HAZARDS)._loaded[1].generation_config
    assert (own.eos_token_id, own.bos_token_id) == (settings.eos_token_id, settings.bos_token_id)


def test_the_name_says_which_model_and_instruction(folder):
    rewriter = ChatRewriter(Chat("chat", folder), HAZARDS)
    assert rewriter.name == f"chat model tiny-chat@{rewriter.facts['model']}, instruction 1"


def test_what_is_no_chat_model_is_named(folder, tmp_path):
    with pytest.raises(NearsafeError, match="nowhere: no such model folder"):
        answers(tmp_path / "nowhere")
    with pytest.raises(NearsafeError, match="the chat template fails: no such option"):
        answers(folder, template={"broken": True})
    plain = shutil.copytree(folder, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(NearsafeError, match="plain: the tokenizer has no chat template"):
        answers(plain)
    (plain / "config.json").write_text("{}")
    with pytest.raises(NearsafeError, match="plain: not a loadable chat model folder"):
        answers(plain)
