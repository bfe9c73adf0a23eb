"""Conversations to learn from: read in every form, trained on the answers alone, packed without seeing each other."""

import gzip
import json

import pytest

from kerasllm import data

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
    import pyarrow.parquet

    for name in ("messages", "sharegpt", "alpaca", "prompts"):
        record, chat = FORMS[name]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record] * 2), tmp_path / "chats.parquet")
        assert list(data.read_chats(tmp_path / "chats.parquet")) == [chat] * 2


def test_a_file_may_be_one_chat_or_a_table(tmp_path):
    path = tmp_path / "one.json"
    for content in (CHAT, {"messages": CHAT}):
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
