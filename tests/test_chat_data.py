"""Conversations to learn from: read in every form, trained on the answers alone, packed without seeing each other."""

import gzip
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
import tokenizers.processors
from chat_templates import MARKED, MESSAGES, TOKENS, chat_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from test_chat import any_text, chat_of

import kerasllm
from kerasllm import data
from kerasllm.tokenizers import Tokenizer, with_chat_format

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "the cat?"},
    {"role": "assistant", "content": " on a mat "},
]
SHORT = CHAT[1:]
SHARED = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "the cat?"}]
ALPACA = {"instruction": "the cat?", "input": " ", "output": " on a mat ", "rejected": "x"}
PAIR = {"prompt": "the cat?", "completion": " on a mat "}
FORMS = {
    "messages": ({"messages": [{**message, "name": None} for message in CHAT], "tools": []}, CHAT),
    "bare": (CHAT, CHAT),
    "sharegpt": ({"conversations": [*SHARED, {"from": "gpt", "value": " on a mat "}], "id": 3}, CHAT),
    "named": ({"system": "Be kind.", "conversations": SHORT}, CHAT),
    "alpaca": (ALPACA, SHORT),
    "input": ({**ALPACA, "input": "sits"}, [{"role": "user", "content": "the cat?\n\nsits"}, CHAT[-1]]),
    "prompt": (PAIR, SHORT),
    "prompts": ({"prompt": CHAT[:2], "completion": CHAT[2:]}, CHAT),
}


@pytest.mark.parametrize("name", ["all.jsonl", "all.json", "all.JSONL.gz"])
def test_every_form_is_found_out(tmp_path, name):
    records = [record for record, _ in FORMS.values()]
    lines = json.dumps(records) if name == "all.json" else "\n\n".join(map(json.dumps, records))
    path = tmp_path / name
    path.write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())
    assert list(data.read_chats(path)) == [chat for _, chat in FORMS.values()]
    assert list(data.read_chats([path, tmp_path])) == 2 * [chat for _, chat in FORMS.values()]


def test_tables_have_chats(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("messages", "sharegpt", "alpaca", "prompts"):
        record, chat = FORMS[name]
        parquet.write_table(pyarrow.Table.from_pylist([record] * 2), tmp_path / "chats.parquet")
        assert list(data.read_chats(tmp_path / "chats.parquet")) == [chat] * 2


def test_a_file_may_be_one_chat_or_a_table(tmp_path):
    path = tmp_path / "one.json"
    for content in (
        CHAT,
        {"messages": CHAT},
        {"system": "Be kind.", "messages": SHORT},
        {"train": [{"messages": CHAT}]},
    ):
        path.write_text(json.dumps(content, indent=1))
        assert list(data.read_chats(path)) == [CHAT]
    (tmp_path / "pairs.csv").write_text('completion,prompt\n" on a mat ",the cat?\n')
    assert list(data.read_chats(tmp_path / "pairs.csv")) == [SHORT]


def test_tools_come_with_their_chat(tmp_path):
    call = {"function": {"name": "weather", "arguments": {}}}
    messages = [CHAT[1], {"role": "assistant", "content": None, "tool_calls": [call]}, CHAT[2]]
    record = {"messages": messages, "tools": [{"type": "function", "function": {"name": "weather"}}]}
    for tools in (record["tools"], json.dumps(record["tools"])):
        (tmp_path / "a.jsonl").write_text(json.dumps({**record, "tools": tools}))
        assert list(data.read_chats(tmp_path / "a.jsonl")) == [record]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, "line 2 is no conversation: it has the fields 'text', and not"),
        ("a", "line 2 is no conversation: it has 'a', and not"),
        ({"messages": []}, 'line 2 is no list of {"role": …, "content": …}'),
        ({"messages": ["a"]}, "line 2, message 1 is no {"),
        ({"messages": [CHAT[1], {"role": "judge", "content": "a"}]}, "line 2, message 2 has the role 'judge'; there"),
        ({"messages": CHAT[:2]}, "line 2 has no answer"),
        ({"messages": [CHAT[0], CHAT[2]]}, "line 2 starts with the assistant"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "line 2 starts with the assistant"),
        ({**ALPACA, "output": " \n"}, "line 2, message 2 is an empty answer"),
        ({**ALPACA, "output": None}, "line 2, message 2 has no text under 'content'"),
        ({**PAIR, "prompt": 3}, "line 2, message 1 has no text under 'content': it has 3"),
    ],
)
def test_what_is_no_conversation_is_named(tmp_path, record, message):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps(record))
    with pytest.raises(ValueError, match=f"^{path}, {message}"):
        list(data.read_chats(path))


def test_what_holds_no_chats(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_text("\n")
    for name, message in (("a.txt", "is a text, and conversations"), ("b.jsonl", "holds no conversation")):
        with pytest.raises(ValueError, match=message):
            list(data.read_chats(tmp_path / name))


# The mask

SAID = [*MESSAGES, {"role": "assistant", "content": "\nnaïve 東<|im_end|>京<end_of_turn> "}]
TURN_ENDS = {name: end for name, (_, _, end) in TOKENS.items()} | {"phi": "<|end|>"}
TOKENIZERS = {name: chat_tokenizer(name) for name in TURN_ENDS}


def learned(tokenizer, ids, mask):
    """The texts between places that are not learned."""
    starts = np.flatnonzero(np.diff([0, *mask, 0]))
    return [tokenizer.decode(ids[a:b], skip_special=False) for a, b in zip(starts[::2], starts[1::2], strict=True)]


@pytest.mark.parametrize("name", TOKENS)
def test_answers_and_their_ends_are_learned(name):
    tokenizer, end = TOKENIZERS[name], TURN_ENDS[name]
    ids, mask = tokenizer.encode_chat_with_mask(SAID)
    assert ids == tokenizer.encode_chat(SAID, add_generation_prompt=False) and len(mask) == len(ids)
    texts = learned(tokenizer, ids, mask)
    assert len(texts) == 2 and all(text.endswith(end) and text.count(end) <= 2 for text in texts)
    said = SAID[2]["content"].split("</think>")[-1] if name == "chatml" else SAID[2]["content"]
    assert texts[0].strip() == said.strip() + end and texts[1].strip().startswith("naïve 東<|im_end|>京<end_of_turn>")
    # What is given to a model that is to answer, and what it is to say, make up the chat.
    given = tokenizer.encode_chat(SAID[:4])
    if name != "chatml":  # where "assistant\n" and the line that the answer begins with become one token
        assert ids[: len(given)] == given and mask[len(given) - 1 : len(given) + 1] == [False, True]


@pytest.mark.parametrize("name", MARKED)
def test_answers_are_found_where_a_template_would_mark_them(name):
    """Gemma's marks hold a line end behind the end of the turn, which no model has to write."""
    tokenizer, template = TOKENIZERS[name], MARKED[name]
    bare = template.replace("generation %}", "if true %}").replace("endif true %}", "endif %}")
    assert "generation %}" not in bare
    for chat in (SAID, SAID[1:3]):
        ids, marked = tokenizer.encode_chat_with_mask(chat, chat_template=template)
        found_ids, found = tokenizer.encode_chat_with_mask(chat, chat_template=bare)
        assert found_ids == ids and any(found)
        behind = [i for i, (a, b) in enumerate(zip(marked, found, strict=True)) if a != b]
        assert [tokenizer.decode([ids[i]]) for i in behind] == (
            ["\n"] * sum(m["role"] == "assistant" for m in chat) if name == "gemma" else []
        )


def test_a_mark_without_the_end_of_the_turn_is_made_longer():
    tokenizer = TOKENIZERS["chatml"]
    short = MARKED["chatml"].replace(
        "message.content + '<|im_end|>' }}\n        {%- endgen", "message.content }}\n        {%- endgen"
    )
    short = short.replace("{%- endgeneration %}", "{%- endgeneration %}{{- '<|im_end|>' }}")
    assert short != MARKED["chatml"]
    whole = tokenizer.encode_chat_with_mask(SAID, chat_template=MARKED["chatml"])
    assert tokenizer.encode_chat_with_mask(SAID, chat_template=short) == whole


def test_a_template_that_writes_older_turns_otherwise():
    """As those of models that think: older thoughts are gone, and the last answer is announced by "<think>"."""
    tokenizer = TOKENIZERS["chatml"]
    template = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.last %}{{ '<think>\\n' + (m.reasoning_content or '') + '</think>' }}{% endif %}
{{- m.content.split('</think>')[-1].lstrip() + ('<|im_end|>' if m.role == 'assistant' else '\\n') }}
{%- for call in m.tool_calls or [] %}{{ call.name }}<|im_end|>{% endfor %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""
    last = {**SAID[4], "reasoning_content": "hm"}
    ids, mask = tokenizer.encode_chat_with_mask([*SAID[:4], last], chat_template=template)
    first, second = learned(tokenizer, ids, mask)
    assert first == "on a mat.<|im_end|>" and second.startswith("hm</think>naïve") and second.endswith("<|im_end|>")


def test_answers_that_a_template_does_not_write():
    with pytest.raises(ValueError, match="writes other things where messages are marked"):
        TOKENIZERS["chatml"].encode_chat_with_mask(SAID, chat_template="{{ messages[2].content | length }}")
    for template, chat, message in (
        ("{{ messages[0].content }}", SAID[1:], r"does not write what messages\[1\] of the chat says"),
        ("{% generation %}{% endgeneration %}{{ messages[0].content }}", SAID, "writes no answer of these"),
        ("{{ messages[1].content }}", CHAT, "has no place for the system role"),
    ):
        with pytest.raises(ValueError, match=message):
            TOKENIZERS["chatml"].encode_chat_with_mask(chat, chat_template=template)


def test_calls_of_tools_are_answers():
    """Also where the template ends them otherwise than other answers, or announces thoughts that they do not have."""
    tokenizer = with_chat_format(CHATML, "chatml", ["<|call|>"])
    template = """{% for m in messages %}{{ '<|im_start|>' + m.role }}
{%- for call in m.tool_calls or [] %}{{ ' to=' + call.name + '<|call|>' }}{% endfor %}
{%- if m.content %}{{ '\\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant{% endif %}"""
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "cat"}]}
    chat = [SAID[1], call, {"role": "tool", "content": "sat"}, {"role": "assistant", "content": "mat"}]
    said = [" to=cat<|call|>", "\nmat<|im_end|>"]
    assert learned(tokenizer, *tokenizer.encode_chat_with_mask(chat, chat_template=template)) == said
    thinking = template.replace("<|im_start|>assistant{%", "<|im_start|>assistant<think>{%")
    assert thinking != template
    assert learned(tokenizer, *tokenizer.encode_chat_with_mask(chat, chat_template=thinking))[1:] == ["mat<|im_end|>"]


def test_a_turn_may_end_with_several_tokens():
    template = "{% for m in messages %}<|im_start|>{{ m.content + '<|im_end|><|endoftext|>' }}{% endfor %}"
    for text in learned(CHATML, *CHATML.encode_chat_with_mask(SAID, chat_template=template)):
        assert text.endswith("<|im_end|><|endoftext|>")


@pytest.mark.parametrize("name", TOKENS)
@given(texts=st.lists(any_text.filter(str.strip), min_size=2, max_size=4))
def test_whatever_is_said_each_turn_that_is_learned_has_its_end(name, texts):
    tokenizer = TOKENIZERS[name]
    ids, mask = tokenizer.encode_chat_with_mask(chat_of(texts))
    assert ids == tokenizer.encode_chat(chat_of(texts), add_generation_prompt=False)
    end = tokenizer.engine.token_to_id(TURN_ENDS[name])
    assert sum(index == end and is_learned for index, is_learned in zip(ids, mask, strict=True)) == len(texts) // 2
    assert len(learned(tokenizer, ids, mask)) == len(texts) // 2


# The data set

CHATML = TOKENIZERS["chatml"]
CHATS = [
    [{"role": "user", "content": "cat " * n}, {"role": "assistant", "content": f"mat {n} " * (n % 4 + 1)}]
    for n in range(12)
]


def question(n):
    return [{"role": "user", "content": f"sat {n}?"}, {"role": "assistant", "content": f"on a mat {n}"}]


def answers_in(element, tokenizer=CHATML):
    labels, masks = element[1].numpy(), element[2].numpy() > 0
    return [text for row, mask in zip(labels, masks, strict=True) for text in learned(tokenizer, row, mask)]


@pytest.mark.parametrize("packed", [True, False])
def test_each_answer_is_learned_once(packed):
    dataset = data.chat_dataset(CHATS, CHATML, seq_len=96, batch_size=2, packed=packed, shuffle=False)
    texts = sorted(text for element in dataset for text in answers_in(element))
    assert texts == sorted(chat[1]["content"] + "<|im_end|>" for chat in CHATS)
    places = [element[2].numpy().size for element in dataset]
    assert sum(places) == 96 * (12 if not packed else -(-sum(places) // 96)) and (not packed or sum(places) < 96 * 8)
    seen = [dataset.documents_at(step) for step in range(len(dataset))]
    assert sorted(number for numbers in seen for number in numbers) == list(range(12))


def test_the_order_is_a_function_of_seed_and_step():
    given = {"seq_len": 96, "batch_size": 2, "epochs": 2, "packed": False}
    whole = [answers_in(element) for element in data.chat_dataset(CHATS, CHATML, seed=1, **given)]
    assert [
        answers_in(element) for element in data.chat_dataset(CHATS, CHATML, seed=1, start_step=5, **given)
    ] == whole[5:]
    first, second = (sorted(text for batch in epoch for text in batch) for epoch in (whole[:6], whole[6:]))
    assert first == second and whole[:6] != whole[6:]
    assert whole != [answers_in(element) for element in data.chat_dataset(CHATS, CHATML, seed=2, **given)]


def test_a_long_conversation_is_split_at_turns():
    long = [MESSAGES[0], *question(1), *question(2), *question("x" * 99), *question(3), *question(4), MESSAGES[3]]
    widest = len(CHATML.encode_chat([MESSAGES[0], *question(1), *question(2)], add_generation_prompt=False)) - 1
    for seq_len, parts in ((widest, [[1, 2], [3, 4]]), (widest - 1, [[1], [2], [3], [4]])):
        with pytest.warns(
            UserWarning, match="Of 2 conversations, 1 are longer .* 1 turns that are longer alone are left"
        ):
            dataset = data.chat_dataset([question(0), long], CHATML, seq_len, batch_size=1, packed=False, shuffle=False)
        elements = list(dataset)
        assert [answers_in(element) for element in elements] == [
            [f"on a mat {n}<|im_end|>" for n in part] for part in [[0], *parts]
        ]
        texts = [CHATML.decode(element[0][0].numpy(), skip_special=False) for element in elements[1:]]
        assert all(text.startswith("<|im_start|>system\n Be kind. <|im_end|>") for text in texts)
        assert [dataset.documents_at(step) for step in range(len(dataset))] == [[0]] + [[1]] * len(parts)


def test_gradients_of_packed_and_unpacked_conversations_are_equal():
    config = kerasllm.models.TransformerConfig(CHATML.vocab_size, 1, 16, 2, 32, max_length=256)
    model = kerasllm.models.CausalLM(config)
    model.compile()
    gradients = []
    for packed, rows in ((True, 3), (False, 12)):
        dataset = data.chat_dataset(CHATS, CHATML, 256 if packed else 96, rows, packed=packed, shuffle=False)
        assert len(dataset) == 1
        x, y, weight = next(iter(dataset))
        assert packed == isinstance(x, dict) and (not packed or int(tf.reduce_max(x["document_ids"])) > 1)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True), weight)
        gradients.append(tape.gradient(loss, model.trainable_variables))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(one), tf.convert_to_tensor(other), rtol=1e-5, atol=1e-5)
        assert np.abs(tf.convert_to_tensor(one)).max() > 1e-4


def test_instructions_are_learned(shared_data):
    chats = list(data.read_chats(shared_data / "instructions" / "instruction-data.json"))
    assert len(chats) == 1100 and chats[0][1]["content"].startswith("The spelling of the given phrase")
    chats = [chat for chat in chats if len(chat[0]["content"] + chat[1]["content"]) < 99][:5]
    model = kerasllm.models.CausalLM(kerasllm.models.TransformerConfig(CHATML.vocab_size, 1, 48, 2, 96, max_length=192))
    model.compile(optimizer=keras.optimizers.Adam(2e-2))
    dataset = data.chat_dataset(chats, CHATML, seq_len=192, batch_size=1, epochs=20)
    losses = model.fit(dataset, epochs=20, steps_per_epoch=len(dataset) // 20, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("chats", "given", "message"),
    [
        ([question(1), question(2)[1:]], {}, r"conversations\[1\] starts with the assistant"),
        ([question(1)[:1]], {}, r"conversations\[0\] has no answer"),
        ([question(1)], {"seq_len": 8}, "nothing to learn from: 1 conversations were given, and 1 turns are longer"),
        ([question(1)], {"batch_size": 2}, "make 1 windows of seq_len=96, fewer than one batch"),
        ([question(1)], {"seq_len": 0}, "seq_len must be at least 1"),
        (
            [CHAT],
            {"chat_template": MARKED["mistral"].replace("!= (loop", "== (loop")},
            r"conversations\[0\]: The chat template",
        ),
        (
            [CHAT],
            {"chat_template": "{% for m in messages[1:] %}{{ m.content + '<|im_end|>' }}{% endfor %}"},
            "no place for the system role",
        ),
    ],
)
def test_what_nothing_can_be_learned_from(chats, given, message):
    with pytest.raises(ValueError, match=message):
        data.chat_dataset(chats, CHATML, **{"seq_len": 96, "batch_size": 1, **given})


def test_other_mistakes_are_named():
    with pytest.raises(TypeError, match="conversations is an iterable of lists of messages, got one str"):
        data.chat_dataset("chats.jsonl", CHATML, seq_len=9, batch_size=1)
    with pytest.raises(TypeError, match="here it is `seq_len`"):
        data.chat_dataset([], CHATML, max_length=9, batch_size=1)
    with pytest.warns(UserWarning, match="no special token behind an answer"):
        data.chat_dataset(
            [question(1)], CHATML, 96, 1, chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}"
        )


# Chats for a model that knows none


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_the_mean_and_change_nothing_else(tied, tmp_path):
    base = Tokenizer.train(["the cat sat on a mat?\n"], kind="char", progress=False)
    tokenizer = with_chat_format(base, "chatml")
    new = [tokenizer.engine.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>")]
    assert new == [base.vocab_size, base.vocab_size + 1] and tokenizer.end_ids == [base.end_id, new[1]]
    config = kerasllm.models.TransformerConfig(base.vocab_size, 1, 16, 2, 32, tie_embeddings=tied, output_bias=True)
    model = kerasllm.models.CausalLM(config)
    model.output_bias.assign(np.arange(base.vocab_size))
    grown = kerasllm.models.with_new_tokens(model, new)
    ids = np.array([base.encode("the cat sat")])
    np.testing.assert_array_equal(grown(ids)[..., : base.vocab_size], model(ids))
    others = model(ids).numpy()
    np.testing.assert_allclose(grown(ids).numpy()[..., new], others.mean(-1, keepdims=True).repeat(2, -1), atol=1e-5)
    table, known = grown.token_embedding.embeddings.numpy(), model.token_embedding.embeddings.numpy()
    np.testing.assert_allclose(table[new], [known.mean(0)] * 2, atol=1e-6)

    kerasllm.save(grown, tokenizer, tmp_path / "run")
    loaded, read = kerasllm.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded(ids), grown(ids))
    assert read.chat_template == tokenizer.chat_template and read.end_ids == tokenizer.end_ids
    chat = [{"role": "user", "content": "cat?"}, {"role": "assistant", "content": "mat"}]
    assert learned(read, *read.encode_chat_with_mask(chat)) == ["mat<|im_end|>"]
    assert read.encode_chat(chat) == tokenizer.encode_chat(chat)


def test_room_for_new_tokens_may_be_there():
    model = kerasllm.models.CausalLM(kerasllm.models.TransformerConfig(20, 1, 16, 2, 32))
    table = model.token_embedding.embeddings.numpy()
    grown = kerasllm.models.with_new_tokens(model, [17, 18]).token_embedding.embeddings.numpy()
    assert grown.shape == table.shape and not np.allclose(grown[17], table[17])
    np.testing.assert_allclose(grown[17], np.delete(table, [17, 18], 0).mean(0), atol=1e-6)
    np.testing.assert_array_equal(np.delete(grown, [17, 18], 0), np.delete(table, [17, 18], 0))
    np.testing.assert_array_equal(kerasllm.models.with_new_tokens(model, []).token_embedding.embeddings, table)
    for ids in ([-1], [22]):
        with pytest.raises(ValueError, match="New token ids go on from the model's 20"):
            kerasllm.models.with_new_tokens(model, ids)


def test_a_chat_format_of_ones_own():
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    tokenizer = with_chat_format(CHATML, template, ["<s>", "</s>"])
    assert tokenizer.vocab_size == CHATML.vocab_size + 2 and tokenizer.chat_template == template
    assert learned(tokenizer, *tokenizer.encode_chat_with_mask(question(1)))[0].endswith("on a mat 1</s>")
    same = with_chat_format(CHATML)
    assert same.fingerprint() == CHATML.fingerprint() and len(CHATML) == len(same)
    engine = tokenizers.Tokenizer.from_str(CHATML.engine.to_str())
    start = "<|startoftext|>"
    engine.post_processor = tokenizers.processors.TemplateProcessing(f"{start} $A", None, [(start, CHATML.start_id)])
    begun = with_chat_format(Tokenizer(engine)).encode_chat(question(1))
    assert begun == [CHATML.start_id, *with_chat_format(CHATML).encode_chat(question(1))]
    with pytest.raises(ValueError, match="no chat format 'alpaca': name 'chatml', or give a template"):
        with_chat_format(CHATML, "alpaca")
