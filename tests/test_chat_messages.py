"""Messages of chats: tools from Python functions, a last message left open, and chats longer than the context."""

import enum
import json
from typing import Any, Literal

import keras
import numpy as np
import pytest
from chat_templates import MESSAGES, TOKENS, chat_tokenizer

import kerasllm
from kerasllm.tokenizers.chat_template import render_chat
from kerasllm.tokenizers.messages import without_oldest_turn
from kerasllm.tokenizers.tool_schemas import tool_schema

CHATML = TOKENS["chatml"][0]
TRIMMING = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }};{% endfor %}"


class Unit(enum.Enum):
    CELSIUS = "C"
    KELVIN = 1


def weather(city: str, unit: Unit, days: int | None = None, *, detail: Literal["low", "high", 3] = "low") -> float:
    """Tells the weather.

    It looks at the sky: args are read.

    Args:
        city (str, optional): Where, as in
            Rome: the city
        unit: Which (choices: ["C", "F "])

        days: How many
        detail:
            How much
    Returns:
        The temperature.

    Raises:
        ValueError: never
    """


def nested(
    a: list[dict[str, float]],
    b: tuple[int, str],
    c: list[int] | str | None,
    d: Any,
    e: list | tuple,
    f: bool | None,
) -> "Unit | set":
    """Nests.

    Args:
      a: A
      b: B
      c: C
      d: D
      e: E
      f: F"""


# What get_json_schema of transformers 5.23 makes of them, keys in its order.
SCHEMAS = {
    weather: """\
{"type": "function", "function": {"name": "weather", "description": "Tells the weather.\\n\\nIt looks at the sky: \
args are read.", "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": \
"Where, as in Rome: the city"}, "unit": {"type": ["string", "integer"], "enum": ["C", "F"], "description": \
"Which"}, "days": {"type": "integer", "nullable": true, "description": "How many"}, "detail": {"type": \
["string", "integer"], "enum": ["low", "high", 3], "description": "How much"}}, "required": ["city", "unit"]}, \
"return": {"type": "number", "description": "The temperature."}}}""",
    nested: """\
{"type": "function", "function": {"name": "nested", "description": "Nests.", "parameters": {"type": "object", \
"properties": {"a": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "number"}}, \
"description": "A"}, "b": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], \
"description": "B"}, "c": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string"}], \
"nullable": true, "description": "C"}, "d": {"description": "D"}, "e": {"type": "array", "description": "E"}, \
"f": {"type": "boolean", "nullable": true, "description": "F"}}, "required": ["a", "b", "c", "d", "e", "f"]}}}""",
}


@pytest.mark.parametrize("function", SCHEMAS)
def test_a_functions_schema_is_that_of_transformers(function):
    assert json.dumps(tool_schema(function)) == SCHEMAS[function]


def test_methods_are_tools_without_their_object():
    class Box:
        def open(self, far: bool):
            """Opens.

            Args:
                far: Whether wide.
            """

    schema = tool_schema(Box().open)["function"]
    assert schema == tool_schema(Box.open)["function"]
    assert schema["parameters"]["required"] == ["far"]


def without_docstring(x: int): ...


def without_type(x):
    """D."""


def without_description(x: int):
    """D."""


def of_strange_type(x: set):
    """D.

    Args:
        x: X.
    """


def with_strange_choices(x: int):
    """D.

    Args:
        x: X (choices: 1, 2)
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (without_docstring, "The tool without_docstring has no docstring"),
        (without_type, "The argument 'x' of the tool without_type has no type"),
        (without_description, "The argument 'x' of the tool without_description is not described"),
        (of_strange_type, "has the type set, of which no JSON schema is known"),
        (with_strange_choices, "has choices that are no list in JSON: 1, 2"),
    ],
)
def test_what_a_schema_lacks_is_said_in_one_sentence(function, message):
    with pytest.raises(ValueError, match=message):
        render_chat(CHATML, MESSAGES, tools=[function])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tools", [print], "A tool is a Python function"),
        ("tools", weather, "`tools` must be a list"),
        ("documents", ["text"], "Documents are a list of"),
    ],
)
def test_no_tools_and_documents_are_refused(name, value, message):
    with pytest.raises(TypeError, match=message):
        render_chat(CHATML, MESSAGES, **{name: value})


def test_functions_are_tools_and_their_control_tokens_text():
    def leave():
        """Ends <|im_end|> it."""

    tokenizer = chat_tokenizer("chatml")
    ids = tokenizer.encode_chat(MESSAGES, tools=[leave])
    assert ids == tokenizer.encode_chat(MESSAGES, tools=[tool_schema(leave)])
    end = tokenizer.engine.token_to_id("<|im_end|>")
    assert ids.count(end) == tokenizer.encode_chat(MESSAGES, tools=[]).count(end) + 1
    assert '"Ends <|im_end|> it."' in tokenizer.decode(ids, skip_special=False)


OPEN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Once upon "}]


@pytest.mark.parametrize(("template", "end"), [(CHATML, "assistant\nOnce upon "), (TRIMMING, "[assistant]Once upon")])
def test_the_final_message_goes_on(template, end):
    assert render_chat(template, OPEN, continue_final_message=True).endswith(end)
    tokenizer = chat_tokenizer("chatml")
    ids = tokenizer.encode_chat(OPEN, chat_template=template, continue_final_message=True)
    assert tokenizer.decode(ids, skip_special=False).endswith(end)
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "Once "}, {"type": "image"}]
    template = "{% for part in messages[0].content %}({{ part.text }}){% endfor %}"
    message = [{"role": "assistant", "content": parts}]
    assert render_chat(template, message, continue_final_message=True) == "(x)(Once "
    thought = [{"role": "assistant", "content": "b", "reasoning": "a"}]
    template = "<{{ messages[0].reasoning_content }}>{{ messages[0].content }}"
    assert render_chat(template, thought, continue_final_message="reasoning") == "<a"


def test_a_final_message_that_cannot_go_on_is_refused():
    with pytest.raises(ValueError, match="give one"):
        render_chat(CHATML, OPEN, continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(ValueError, match="no text under 'content'"):
        render_chat(CHATML, [*OPEN, {"role": "assistant", "content": None}], continue_final_message=True)
    with pytest.raises(ValueError, match="does not write the final message as it is"):
        render_chat("{{ messages[0].content }}", OPEN, continue_final_message=True)


def test_the_oldest_turn_is_left_out_whole():
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    for spelled, left in {"suatau": "su", "suaua": "sua", "auau": "uau", "su": None, "ua": None, "s": None}.items():
        shorter = without_oldest_turn([{"role": roles[letter]} for letter in spelled])
        assert (shorter and "".join(message["role"][0] for message in shorter)) == left, spelled


def constant_model(vocab_size, token, context):
    """A model of a limited context that always says the same."""

    class Places(keras.layers.Layer):
        max_length = context

        def call(self, x):
            return x

    bias = np.zeros(vocab_size, "float32")
    bias[token] = 1
    table = keras.layers.Embedding(vocab_size, vocab_size)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), table, Places()])
    table.set_weights([np.tile(bias, (vocab_size, 1))])
    return model


def test_a_long_chat_is_shortened_where_asked_and_refused_elsewhere():
    tokenizer = chat_tokenizer("chatml")
    turns = [{"role": role, "content": role[0] * 20} for role in ["user", "assistant"] * 3 + ["user"]]
    messages = [{"role": "system", "content": "be brief"}, *turns]
    kept = [messages[0], *turns[-3:]]
    size = len(tokenizer.encode_chat(kept))
    letter = tokenizer.encode("z")[0]
    model = constant_model(tokenizer.vocab_size, letter, size + 4)
    with pytest.raises(ValueError, match=r"do not fit the model's context of \d+ with 4 new ones: shorten=True"):
        kerasllm.chat(model, tokenizer, messages, 4)
    prompts = []
    encode = tokenizer.encode_chat
    tokenizer.encode_chat = lambda messages, **options: prompts.append(messages) or encode(messages, **options)
    assert kerasllm.chat(model, tokenizer, messages, 4, shorten=True) == "zzzz"
    assert prompts[-1] == kept
    with pytest.raises(ValueError, match="its last turn alone is too long"):
        kerasllm.chat(model, tokenizer, messages, size, shorten=True)
    assert "".join(kerasllm.stream_chat(model, tokenizer, kept[:-1], 3, continue_final_message=True)) == "zzz"
    assert encode(kept[:-1], continue_final_message=True)[-1] == tokenizer.encode("a")[0]
