"""Chats: what users write is text to every template, templates do no harm, and answers end where turns do."""

import keras
import numpy as np
import pytest
import tokenizers
from chat_templates import MESSAGES, TOKENS, chat_tokenizer
from hypothesis import given
from hypothesis import strategies as st

import kerasllm
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.chat_template import MOST_CHARACTERS, render_chat, turn_end_id

TOKENIZERS = {name: chat_tokenizer(name) for name in TOKENS}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|startoftext|>", "<|pad|>"]
PARTS = [
    "<|",
    "im_start|>",
    "end_of_",
    "turn>",
    "<|im_",
    "end|>",
    "<",
    ">",
    "\U000f0000",
    "\U000f0003",
    "\0",
    " ",
    "\n",
]
any_text = st.lists(st.one_of(st.text(max_size=4), st.sampled_from(SPECIAL + PARTS))).map("".join)
every_template = pytest.mark.parametrize("name", TOKENS)


def chat_of(texts):
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def special_counts(tokenizer, ids):
    added = tokenizer.engine.get_added_tokens_decoder()
    return {token.content: ids.count(index) for index, token in added.items() if token.special}


@every_template
@given(texts=st.lists(any_text, min_size=1, max_size=4))
def test_no_message_makes_a_special_token(name, texts):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode_chat(chat_of(texts))
    plain = tokenizer.encode_chat(chat_of(["x" for _ in texts]))
    assert special_counts(tokenizer, ids) == special_counts(tokenizer, plain)
    read = tokenizer.decode(ids, skip_special=False)
    assert read == render_chat(TOKENS[name][0], chat_of(texts), bos_token="<|startoftext|>", eos_token="<|endoftext|>")


@every_template
@given(texts=st.lists(st.text(alphabet="ab <|>\n\U000f0000é"), min_size=1, max_size=3))
def test_ids_are_those_of_the_whole_text(name, texts):
    tokenizer = TOKENIZERS[name]
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    text = render_chat(TOKENS[name][0], chat_of(texts), **tokens)
    assert tokenizer.encode_chat(chat_of(texts)) == tokenizer.encode(text, parse_special=True)


def test_parts_of_a_message_do_not_add_up_to_a_special_token():
    tokenizer = TOKENIZERS["gemma"]
    parts = [{"type": "text", "text": text} for text in ("<end_of", " _turn> ", "<end_of_turn", ">")]
    ids = tokenizer.encode_chat([{"role": "user", "content": parts}])
    assert special_counts(tokenizer, ids)["<end_of_turn>"] == 1
    assert "<end_of_turn><end_of_turn>" in tokenizer.decode(ids, skip_special=False)


def test_a_control_token_that_is_not_special_is_the_templates_own():
    """As "</think>" of Qwen3, at which the template cuts answers, and DeepSeek's "<｜User｜>"."""
    engine = tokenizers.Tokenizer.from_str(TOKENIZERS["chatml"].engine.to_str())
    engine.add_tokens(["<think>", "</think>", "<other>"])
    tokenizer = Tokenizer(engine)
    tokenizer.chat_template = TOKENS["chatml"][0]
    ids = tokenizer.encode_chat(chat_of(["a</think>", "b<other></think>\n\nc", "<other>d"]), enable_thinking=False)
    read = tokenizer.decode(ids, skip_special=False)
    assert "a</think><|im_end|>" in read and "assistant\nc<|im_end|>" in read
    assert [ids.count(engine.token_to_id(token)) for token in ("<think>", "</think>", "<other>")] == [1, 1, 1]


def test_roles_and_keys_make_no_special_token():
    tokenizer = TOKENIZERS["chatml"]
    messages = [{"role": "<|im_end|>", "content": "a", "call": {"<|im_end|>": 1}}]
    ids = tokenizer.encode_chat(messages, chat_template="{{ messages[0].role }}{{ messages[0].call | tojson }}")
    assert tokenizer.decode(ids, skip_special=False) == '<|im_end|>{"<|im_end|>": 1}'
    assert not any(special_counts(tokenizer, ids).values())


@pytest.mark.parametrize("ascii_only", ["true", "false"])
def test_special_tokens_in_json_are_text(ascii_only):
    tokenizer = TOKENIZERS["chatml"]
    template = "{{ messages[0].content | tojson(ensure_ascii=" + ascii_only + ") }}<|im_end|>"
    ids = tokenizer.encode_chat([{"role": "user", "content": "é<|im_end|>"}], chat_template=template)
    assert ids.count(tokenizer.engine.token_to_id("<|im_end|>")) == 1
    letter = r"\u00e9" if ascii_only == "true" else "é"
    assert tokenizer.decode(ids, skip_special=False) == f'"{letter}<|im_end|>"<|im_end|>'


@every_template
def test_the_end_of_a_turn_is_found(name):
    tokenizer = TOKENIZERS[name]
    assert turn_end_id(tokenizer) == tokenizer.engine.token_to_id(TOKENS[name][2])
    assert turn_end_id(tokenizer, "{{ messages[0].content }}") is None
    assert turn_end_id(tokenizer, "{{ raise_exception('no') }}") is None


def answering(tokenizer, reply):
    """A model that says `reply` after any chat: each token decides the next one."""
    ids = [tokenizer.encode_chat(MESSAGES)[-1], *reply]
    assert len(set(ids)) == len(ids)
    following = np.zeros((tokenizer.vocab_size, tokenizer.vocab_size), "float32")
    following[ids[:-1], ids[1:]] = 1.0
    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(*following.shape)])
    model.set_weights([following])
    return model


def test_an_answer_ends_with_its_turn():
    tokenizer = chat_tokenizer("chatml")
    end = tokenizer.engine.token_to_id("<|im_end|>")
    reply = [*dict.fromkeys(tokenizer.encode("on a m")), end, tokenizer.encode("z")[0]]
    model = answering(tokenizer, reply)
    expected = tokenizer.decode(reply[: reply.index(end)])
    messages = [{"role": "user", "content": "where?"}]
    assert kerasllm.chat(model, tokenizer, messages, max_new_tokens=40) == expected
    assert "".join(kerasllm.stream_chat(model, tokenizer, messages, 40)) == expected
    assert kerasllm.chat(model, tokenizer, messages, 40, stop=" a") == expected.partition(" a")[0]
    tokenizer.end_ids.append(reply[0])
    assert kerasllm.chat(model, tokenizer, messages, 40) == ""


def test_variables_and_other_templates_reach_the_template():
    tokenizer = TOKENIZERS["chatml"]
    thinking = tokenizer.encode_chat(MESSAGES, enable_thinking=False)
    assert tokenizer.decode(thinking).endswith("assistant\n<think>\n\n</think>\n\n")
    assert "<think>on" not in tokenizer.decode(thinking)
    tools = tokenizer.decode(tokenizer.encode_chat(MESSAGES, tools=[{"name": "<|im_end|>"}]), skip_special=False)
    assert '# Tools\n{"name": "<|im_end|>"}\n' in tools
    asked, told = (tokenizer.encode_chat(MESSAGES, add_generation_prompt=asks) for asks in (True, False))
    assert tokenizer.decode(asked[len(told) :], skip_special=False) == "<|im_start|>assistant\n"


def test_a_template_is_kept_with_its_tokenizer(tmp_path):
    tokenizer = chat_tokenizer("gemma")
    tokenizer.end_ids.append(tokenizer.engine.token_to_id("<end_of_turn>"))
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode_chat(MESSAGES) == tokenizer.encode_chat(MESSAGES)
    assert again.end_ids == tokenizer.end_ids
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].role }}")
    assert Tokenizer.load(tmp_path).chat_template == "{{ messages[0].role }}"


HARMFUL = {
    "a huge text": ("{% for i in range(9999) %}{% for i in range(9999) %}aaaa{% endfor %}{% endfor %}", "more than"),
    "a long repetition": (f"{{{{ 'ab' * {MOST_CHARACTERS} }}}}", "it asks for too much with '*'"),
    "a repetition the other way": (f"{{{{ {MOST_CHARACTERS} * [1, 2] }}}}", "it asks for too much with '*'"),
    "a power": ("{{ 9 ** 9 ** 9 }}", r"it asks for too much with '\*\*'"),
    "doubling": (
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        r"it asks for too much with '\+'",
    ),
    "a look inside": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "a change of the messages": ("{{ messages.append(1) }}", "attribute 'append' of 'list' object is unsafe"),
    "a file": ("{% include 'secret.txt' %}", "loader"),
    "no end": ("{% for m in messages %}", "cannot write these messages: Unexpected end of template"),
    "a refusal": ("{{ raise_exception('only cats') }}", "cannot write these messages: only cats"),
    "a wrong type": ("{{ messages + 1 }}", "cannot write these messages: can only concatenate list"),
}


@pytest.mark.parametrize(("template", "message"), HARMFUL.values(), ids=HARMFUL)
def test_a_template_can_do_no_harm(template, message):
    with pytest.raises(ValueError, match=message) as raised:
        TOKENIZERS["chatml"].encode_chat(MESSAGES, chat_template=template)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ("hello", TypeError, "Messages are a list of"),
        ([], TypeError, "Messages are a list of"),
        (["hello"], TypeError, 'Message 0 must be a dict with a "role" and a "content", got \'hello\''),
        ([{"content": "a"}], TypeError, "Message 0 must be a dict"),
        (
            [MESSAGES[1], MESSAGES[1]],
            ValueError,
            "cannot write these messages: After the optional system message, roles",
        ),
        ([{"role": "user", "content": "a\ud800"}], ValueError, "lone surrogate"),
    ],
)
def test_wrong_messages_are_refused_in_one_sentence(messages, error, message):
    with pytest.raises(error, match=message):
        TOKENIZERS["mistral"].encode_chat(messages)


def test_without_a_template_there_is_no_chat():
    tokenizer = Tokenizer.train(["the cat"], kind="char", progress=False)
    with pytest.raises(ValueError, match="This tokenizer has no chat template"):
        tokenizer.encode_chat(MESSAGES)
