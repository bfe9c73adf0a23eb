"""Texts that are held to a form: every one that is drawn has it, whatever the model thinks of it."""

import itertools
import json
import re

import jsonschema
import keras
import pytest

import kerasllm
from kerasllm.generation.constraints.asked import make_constraint
from kerasllm.generation.constraints.automata import choice_automaton, token_table
from kerasllm.generation.constraints.patterns import pattern_automaton
from kerasllm.generation.constraints.schema_patterns import schema_pattern
from kerasllm.tokenizers import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["café", "Straße", 7, None]},
        "tags": {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 12}, "maxItems": 3},
    },
    "required": ["name", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the class of a thing, é and 日本 1234-56 "], vocab_size=300, progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = kerasllm.models.TransformerConfig(
        tokenizer.vocab_size + 7, num_layers=1, d_model=16, num_heads=2, dff=32, max_length=320
    )
    keras.utils.set_random_seed(0)
    return kerasllm.models.CausalLM(config)


def takes(automaton, text):
    state = 0
    for byte in text:
        state = automaton.following[state, byte] if state >= 0 else -1
    return state >= 0 and bool(automaton.ends[state])


SAMPLES = ["", " ", "a", "b", "ab", "aab", "é", "٣", "12", "²", "ſ", "AB", "_-", "[x]", "a]", "[", "]", "&&", "~~"]
SAMPLES += ["a--b", "<a>", "xx", "xxxx", "ab\n", "\x1c", "\u0300a", "\u200b", "½"]
PATTERNS = [
    *("a|ab", "a*?", ".*", "", "^a$", "^a|^b$", "(?i)ab", "[a[b]+", r"[\[x\]]+", r"\w+", r"\W*", r"\d+", r"[^\d]*"),
    *(r"[^\W\d]+", r"\s*", r"\S+", "x{,3}", r"\<a\>", "[]a]+", "[^]a]+", r"[\w.-]+", "(?:a|b)*", "[a&b]*", "(?s:.)*"),
    *("a?(?s:.){0,40}", "a(?s:.){0,60}b?"),  # in no time
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_automaton_takes_what_python_takes(pattern):
    automaton = pattern_automaton(pattern)
    assert [takes(automaton, text.encode()) for text in SAMPLES] == [
        bool(re.fullmatch(pattern, text)) for text in SAMPLES
    ]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("regex", "(", "no regular expression of Python's: missing"),
        ("regex", "(?=a)b", "knows no look-around"),
        ("regex", r"(a)\1", "back-references"),
        ("regex", "(?x)a", "flag other than i, m and s"),
        ("regex", "a++", "possessive"),
        ("regex", "(a$)b", r"has \$ within"),
        ("regex", "[[a]", "nested set"),
        ("regex", "[^\x00-\U0010ffff]", "matches no text"),
        ("regex", r"b[^\s\S]", "matches no text"),
        ("choices", [], "one or more str"),
        ("json_schema", '{"type": "any"}', "Invalid type: any"),
        ("json_schema", {"not": {"type": "string"}}, "Unimplemented keys"),
        ("json_schema", {"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ("json_schema", "{", "is no JSON"),
        ("grammar", "start: other", "unknown name"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind, value, message, model, tokenizer):
    with pytest.raises(ValueError, match=f"`{kind}`.*{message}"):
        kerasllm.generate(model, tokenizer, "a", **{kind: value})


def test_wrong_calls_are_refused(model, tokenizer):
    for options, message in (
        ({"regex": "a", "choices": ["b"]}, "one of regex, choices, json_schema, grammar, got regex and choices"),
        ({"finish": "valid"}, "goes with one of"),
        ({"regex": "a", "finish": "soon"}, "'length' or 'valid'"),
        ({"regex": "a{30}", "finish": "valid", "max_new_tokens": 5}, r"`regex` asks for \d+ tokens or more"),
        ({"json_schema": BODY, "finish": "valid", "max_new_tokens": 5}, "within 5 new tokens"),
        ({"json_schema": PERSON, "finish": "valid", "max_new_tokens": 5}, r"`json_schema` asks for \d+ tokens or more"),
        ({"regex": "a", "end_ids": []}, "needs a token that ends a text"),
    ):
        with pytest.raises(ValueError, match=message):
            kerasllm.generate(model, tokenizer, "a", **options)
    with pytest.raises(TypeError, match="`regex` is about text"):
        kerasllm.generation.generate_ids(model, [1], regex="a")
    with pytest.raises(TypeError, match="here it is `json_schema`"):
        kerasllm.generate(model, tokenizer, "a", guided_json={})


def test_a_table_says_what_its_automaton_says():
    tokens = [b"a", None, b"b", b"ab", b"\xc3", b"\xa9", b"\xa9a", b"aab", b""]
    first = [b"b", None, b"", *tokens[3:]]
    automata = pattern_automaton("(ab|é){1,2}a?"), choice_automaton(["ab", "abé", "é"])
    for automaton, given in itertools.product(automata, (None, first)):
        table = token_table(automaton, tokens, given)
        fewest = {}
        for length in range(4):
            for ids in itertools.product(range(len(tokens)), repeat=length):
                state = table.start
                for token in ids:
                    state = table.following[state, table.kinds[token]] if state >= 0 else -1
                written = [(given or tokens)[token] if place == 0 else tokens[token] for place, token in enumerate(ids)]
                taken = None not in written and takes(automaton, b"".join(written))
                ends = 0 <= state < table.within[0]
                assert ends == taken, (ids, written)
                if ends:
                    fewest.setdefault(length, ids)
        assert table.fewest_tokens == min(fewest)


# One that is no regular expression to us, so that llguidance reads it.
BODY = {**PERSON, "properties": {**PERSON["properties"], "size": {"type": "number", "minimum": 0}}}
HELD = {
    "regex": r"(\d{4}-[0-9]{2}|[é日本a-c]{2,9}|\"[^\"]*\")",
    "choices": ["yes", "ye", "Straße 日本", ""],
    "json_schema": BODY,
}


def holds(kind, value, text):
    if kind == "json_schema":
        jsonschema.validate(json.loads(text), value, format_checker=jsonschema.FormatChecker())
        return True
    return bool(re.fullmatch(value, text)) if kind == "regex" else text in value


@pytest.mark.parametrize(("kind", "value"), [*HELD.items(), ("json_schema", PERSON)])
def test_every_text_is_what_was_asked_for(kind, value, model, tokenizer):
    options = {"temperature": 2.0, "seed": 3, "max_new_tokens": 60, "finish": "valid", "min_new_tokens": 4}
    texts = kerasllm.generate(model, tokenizer, ["The", "a"] * 8, **{kind: value}, **options)
    assert all(holds(kind, value, text) for text in texts)
    assert len(set(texts)) > 1


def test_a_text_that_may_go_on_ends_in_time(model, tokenizer):
    options = {"temperature": 1.0, "seed": 3, "max_new_tokens": 9, "finish": "valid"}
    schema = {"type": "array", "items": {"type": "string", "pattern": "a"}}
    for kind, value in (("regex", r"\{(.{4})*\}"), ("json_schema", schema)):
        texts = kerasllm.generate(model, tokenizer, ["The", "a"] * 8, **{kind: value}, **options)
        assert all(holds(kind, value, text) for text in texts)


def test_tables_are_made_once(model, tokenizer):
    make = lambda: make_constraint("regex", "[a-z]{3}", tokenizer).table  # noqa: E731
    assert make() is make()


NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "required": ["value", "children"],
    "additionalProperties": False,
}
SCHEMAS = [
    PERSON,
    {"type": "string"},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"enum": ["naïve", "日本語", '"quoted"', "back\\slash", 1.5, None, True, ["a", {"b": 0}]]},
    {"const": {"a": [1, {"é": "ü"}]}},
    {"type": "integer", "minimum": -17, "maximum": 230},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
    {"type": ["boolean", "null"]},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "array", "items": {"enum": ["rot", "grün"]}, "minItems": 1, "maxItems": 4},
    {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "null"}}}},
    {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "object"}}}}},
    {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "string"}},
        "additionalProperties": False,
    },
    {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"z": {"const": "ö"}}, "required": ["z"]}]},
    {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    {"type": "string", "format": "ipv4"},
    {"type": "object", "additionalProperties": {"type": "integer", "multipleOf": 5}},
    {"type": "object"},
    {"type": "object", "properties": {'ключ "1"': {"type": "string", "format": "uuid"}}, "required": ['ключ "1"']},
]
REGEXES = [
    *(HELD["regex"], r"\d{4}-\d{2}-\d{2}", r"(?:[01]\d|2[0-3]):[0-5]\d", r"[A-Z][a-z]{2,8}", r"\w+", r"\W{1,9}"),
    *(r".{3,7}", r"[^\x00-\x7f]{1,4}", r"(?i:yes|no|maybe)", r"-?(?:0|[1-9]\d*)(?:\.\d+)?", r"(?s:.*)", r"\S+"),
    *(r"[\w.+-]+@[\w-]+\.[a-z]{2,3}", r"#[0-9a-fA-F]{6}", r"(?:a|ab)(?:c|bcd)*", r"\s*x\s*", r"[àâçéèêëîïôûùü]+"),
    *(r"(\d{1,3}\.){3}\d{1,3}", r"<(b|i)>[^<>]*</(b|i)>", r"[一-龥]{2}(?:、[一-龥]{2})*"),
]


REGULAR = [
    *(schema for schema in SCHEMAS if schema_pattern(schema)),
    {"type": ["number", "string"], "maxLength": 1},
    {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/a.b", "title": "it"}], "$defs": {"a.b": {"const": "a+b"}}},
    {
        "type": "object",
        "properties": {
            "a": {"type": "null"},
            "b": {"enum": ["x", "é"], "type": "string"},
            "c": {"type": "boolean"},
            "d": {"const": {}},
        },
        "required": ["c"],
        "additionalProperties": False,
    },
]
VALUES = [None, True, False, 0, 7, -17, 230, 231, -18, 1.5, "", "é", "ab", "abcd", "abcde", '"', "\\", "\x00", "日本語"]
VALUES += [
    "naïve",
    "a+b",
    "aab",
    [],
    [None],
    ["rot"],
    ["rot", "grün"] * 2,
    ["rot"] * 5,
    ["a", {"b": 0}],
    [[[None], []]],
]
VALUES += [{}, {"a": [1, {"é": "ü"}]}, {"a": [1]}, {"x": 3}, {"y": ""}, {"x": 3, "y": '"'}, {"x": 3, "z": 1}]
VALUES += [{"c": True}, {"a": None, "c": False}, {"b": "é", "c": False, "d": {}}, {"c": True, "d": {}}, {"a": None}]
VALUES += [{"name": "Zoë", "kind": "Straße", "tags": [-5, 12]}, {"name": "a" * 9, "kind": 7, "tags": []}]
VALUES += [{"name": "a", "kind": None, "tags": [13]}, {"name": "a", "tags": []}]


@pytest.mark.parametrize("schema", REGULAR, ids=str)
def test_a_regular_schema_is_its_regular_expression(schema):
    pattern, valid = schema_pattern(schema), jsonschema.Draft202012Validator(schema).is_valid
    for value in VALUES:
        assert bool(re.fullmatch(pattern, json.dumps(value, ensure_ascii=False))) == valid(value), value
    assert sum(map(valid, VALUES)) > 0


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_a_thousand_draws_are_what_was_asked_for(kind):
    letters = "".join(map(chr, [*range(32, 127), *range(0xC0, 0x17F), *range(0x410, 0x450), *range(0x4E00, 0x4E40)]))
    letters += "日本語龥、√½\n"
    tokenizer = Tokenizer.train(["the class of a thing, " * 9 + letters] * 3, vocab_size=700, kind=kind, progress=False)
    config = kerasllm.models.TransformerConfig(
        tokenizer.vocab_size + 3, num_layers=1, d_model=32, num_heads=2, dff=64, max_length=400
    )
    model = kerasllm.models.CausalLM(config)
    asked = [*(("regex", regex) for regex in REGEXES), *(("json_schema", schema) for schema in SCHEMAS)]
    for number, (kind_of, value) in enumerate(asked):
        options = {"temperature": 1.3, "seed": number, "max_new_tokens": 240, "finish": "valid", kind_of: value}
        texts = kerasllm.generate(model, tokenizer, ["The"] * 50, **options)
        for text in texts:
            assert holds(kind_of, value, text), (value, text)


CONSTRAINTS = {"held": HELD["regex"], "date": r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "size": ["S", "M", "XL é"]}
CONSTRAINTS["person"] = {**PERSON, "required": ["name", "kind"]}
KINDS = {str: "regex", list: "choices", dict: "json_schema"}


@pytest.mark.soak
@pytest.mark.parametrize("compiled", [False, True])
def test_a_saved_model_writes_the_same_text(compiled, model, tokenizer, tmp_path, run_python):
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "saved", compiled=compiled, constraints=CONSTRAINTS)
    code = """
        import json
        import tensorflow as tf

        constrained = tf.saved_model.load({folder!r}).signatures["constrained"]

        def texts(constraint):
            settings = dict(max_new_tokens=40, temperature=1.5, top_k=0, top_p=1.0, seed=3, finish="valid")
            settings = {{name: tf.constant(value) for name, value in settings.items()}}
            made = constrained(text=tf.constant(["The", "a thing"]), constraint=tf.constant(constraint), **settings)
            return [text.decode() for text in made["text"].numpy()]

        print(json.dumps({{name: texts(name) for name in {names!r}}}))
        try:
            texts("other")
        except tf.errors.InvalidArgumentError as error:
            print("one of those that the model was exported with" in str(error))
    """
    code = code.format(folder=str(tmp_path / "saved"), names=list(CONSTRAINTS))
    hidden = ["kerasllm", "keras", "tokenizers", "outlines_core", "llguidance"]
    written, is_refused = run_python(code, hide=hidden).splitlines()
    options = {"max_new_tokens": 40, "temperature": 1.5, "seed": 3, "finish": "valid"}
    expected = {
        name: kerasllm.generate(model, tokenizer, ["The", "a thing"], **{KINDS[type(value)]: value}, **options)
        for name, value in CONSTRAINTS.items()
    }
    assert json.loads(written) == expected
    assert is_refused == "True"


def test_a_graph_takes_schemas_that_are_regular(tokenizer):
    from kerasllm.export.constrained import read_constraint

    assert read_constraint("person", PERSON, tokenizer).table.fewest_tokens > 20
    with pytest.raises(ValueError, match="Of `constraints`, 'body': a graph follows JSON schemas that are regular"):
        read_constraint("body", BODY, tokenizer)


@pytest.mark.soak
def test_guesses_change_no_text(model, tokenizer):
    for kind, value in HELD.items():
        options = {kind: value, "temperature": 1.5, "seed": 3, "max_new_tokens": 60, "finish": "valid"}
        alone = kerasllm.generate(model, tokenizer, "The class", **options)
        assert kerasllm.generate(model, tokenizer, "The class", draft="lookup", **options) == alone
        assert "".join(kerasllm.stream(model, tokenizer, "The class", **options)) == alone


@pytest.mark.soak
def test_texts_are_held_on_other_backends(run_python, other_backend):
    code = """
        import json, re
        import kerasllm

        tokenizer = kerasllm.tokenizers.Tokenizer.train(["the class é"], vocab_size=280, progress=False)
        config = kerasllm.models.TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 32, max_length=128)
        model = kerasllm.models.CausalLM(config)
        options = dict(temperature=1.5, seed=1, max_new_tokens=40, finish="valid")
        texts = kerasllm.generate(model, tokenizer, ["a"] * 4, regex=r"\\d{2,4}é+", **options)
        assert all(re.fullmatch(r"\\d{2,4}é+", text) for text in texts), texts
        for text in kerasllm.generate(model, tokenizer, ["a"] * 4, json_schema={"type": "array"}, **options):
            json.loads(text)
    """
    run_python(code.replace("\\\\", "\\"), backend=other_backend)
