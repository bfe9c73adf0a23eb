# ruff: noqa: UP006, UP007, UP035, UP042, UP045
"""Chats beside transformers: real templates, tools as functions, final messages left open."""

import enum
import functools
import itertools
import json
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple, Union

import pytest
from chat_templates import MARKED, MESSAGES, TEXT, TOKENS, chat_tokenizer
from test_chat_messages import nested, weather

from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.chat_template import render_chat
from kerasllm.tokenizers.tool_schemas import tool_schema

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
templates = pytest.importorskip("transformers.utils.chat_template_utils")
pytestmark = pytest.mark.parity

CONFIGS = Path(__file__).parents[3] / "shared" / "data" / "hf_configs"


def real_templates():
    found = {name: TOKENS[name][0] for name in TOKENS}
    for path in sorted(CONFIGS.glob("*/tokenizer_config.json")):
        if isinstance(template := json.loads(path.read_text()).get("chat_template"), str):
            found[path.parent.name] = template
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}{{ documents }}"
    return {**found, "marked": marked, "dated": "{{ strftime_now('%Y-%m') }}{{ messages | length }}"}


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
USER = {"role": "user", "content": "Hi <b> "}
CHATS = {
    "plain": [USER, {"role": "assistant", "content": " Hello "}, {"role": "user", "content": "Bye\n"}],
    "system": [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Yes "}],
    "thought": [
        USER,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes", "reasoning": "hm"},
        {**USER, "name": None},
        {"role": "assistant", "content": "Done. "},
    ],
    "call": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "content": "20"},
        {"role": "assistant", "content": "It is 20."},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "b "}, {"type": "text", "text": "c "}]},
    ],
}
MODES = ({"add_generation_prompt": False}, {"add_generation_prompt": True}, {"continue_final_message": True})
GIVEN = (
    {},
    {"tools": [weather]},
    {"tools": [{"type": "function", "function": {"name": "x"}}], "documents": [{"title": "t", "text": "é"}]},
)


def rendered(render, chat, options):
    """A text, or None where the template refuses the messages."""
    try:
        return render(chat, **options, bos_token="<s>", eos_token="</s>")
    except Exception:
        return None


@pytest.mark.parametrize("name", real_templates())
def test_templates_write_what_they_write_there(name):
    template = real_templates()[name]

    def theirs(chat, **options):
        chat = templates._normalize_chat_messages(chat)
        return templates.render_jinja_template([chat], chat_template=template, **options)[0][0]

    texts = []
    for chat, mode, given in itertools.product(CHATS.values(), MODES, GIVEN):
        options = {**mode, **given}
        texts.append(rendered(functools.partial(render_chat, template), chat, options))
        assert texts[-1] == rendered(theirs, chat, options), (chat, options)
    assert sum(text is not None for text in texts) >= 9


class Colour(str, enum.Enum):
    RED = "red"


def old_types(
    a: Union[int, str], b: Optional[List[Dict[str, Any]]], c: Tuple[int, str], *more: "int", d: Colour = None
):
    """Old.

    Args:
        a (int): A: with
           more: words
        b:
            B
        c: C (Choices: [" x", 1])
        more: M
        d: D
    Returns:
        Nothing at all.
    """


def bare(flag: Literal[True, None, "x"] = None) -> None:
    """One line. Args:
    Args:
      flag: F
    Raises:
      Nothing."""


def plain() -> List:
    """Nothing to give. Returns: what?

    Returns: here
    """


@pytest.mark.parametrize("function", [weather, nested, old_types, bare, plain, Path.home], ids=lambda f: f.__name__)
def test_schemas_of_functions(function):
    try:
        theirs = json.dumps(templates.get_json_schema(function))
    except templates.DocstringParsingException:
        theirs = None
    try:
        ours = json.dumps(tool_schema(function))
    except ValueError:
        ours = None
    assert ours == theirs


@pytest.mark.parametrize("name", MARKED)
def test_masks_are_theirs(name):
    tokenizer = chat_tokenizer(name)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.engine, bos_token="<|startoftext|>", eos_token="<|endoftext|>"
    )
    fast._tokenizer.encode_special_tokens = False
    chats = [
        [*MESSAGES[:3], {"role": "user", "content": "sat?"}, {"role": "assistant", "content": "naïve 東京 the cat "}],
        MESSAGES[1:3],
        [
            MESSAGES[1],
            {"role": "assistant", "content": "x"},
            MESSAGES[1],
            {"role": "assistant", "content": "1. a\n2. b"},
        ],
    ]
    for chat in chats:
        theirs = fast.apply_chat_template(
            chat, chat_template=MARKED[name], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = tokenizer.encode_chat_with_mask(chat, chat_template=MARKED[name])
        assert ids == theirs["input_ids"] and any(mask)
        assert mask == list(map(bool, theirs["assistant_masks"]))


# Templates that TRL patches with marks, and the token that ends a turn in each.
PATCHED = {
    "llama3": ("<|start_header_id|> <|end_header_id|>", "<|eot_id|>"),
    "cohere": ("<|START_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "lfm2": ("<|im_start|>", "<|im_end|>"),
    "phi3": ("<|system|> <|user|> <|assistant|>", "<|end|>"),
}


@pytest.mark.parametrize("name", PATCHED)
def test_masks_of_plain_templates_are_those_of_patched_ones(name):
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    special, end = PATCHED[name]
    folder = Path(trl.__file__).parent / "chat_templates"
    plain, patched = (folder / f"{name}{kind}.jinja" for kind in ("", "_training"))
    tokenizer = Tokenizer.train([TEXT], vocab_size=330, special_tokens=[*special.split(), end], progress=False)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.engine, bos_token="<|startoftext|>", eos_token="<|endoftext|>"
    )
    end_id = tokenizer.engine.token_to_id(end)
    for answers in (["on a mat."], ["the cat", " naïve 東京 "], ["x\n", "1. a\n2. b", "a"]):
        chat = []
        for answer in answers:
            chat += [{"role": "user", "content": "sat? "}, {"role": "assistant", "content": answer}]
        theirs = fast.apply_chat_template(
            chat, chat_template=patched.read_text(), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = tokenizer.encode_chat_with_mask(chat, chat_template=plain.read_text())
        assert ids == theirs["input_ids"]
        assert mask == up_to_ends(ids, theirs["assistant_masks"], end_id) and any(mask)


def up_to_ends(ids, mask, end_id):
    """A mask without what stands behind the token that ends a turn, such as a line break: no model comes to say it."""
    is_over, cut = False, []
    for token, is_learned in zip(ids, mask, strict=True):
        cut.append(bool(is_learned) and not is_over)
        is_over = bool(is_learned) and (is_over or token == end_id)
    return cut
