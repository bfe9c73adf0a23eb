"""LaMDA's way: what is written and judged, chosen and looked up, against plain computations by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kerasllm
from kerasllm import dialogue
from kerasllm.cli import main
from kerasllm.data import dialogue_dataset, rate_replies, read_chats
from kerasllm.data.ratings import ATTRIBUTES, rated_ids, rating_pieces
from kerasllm.dialogue import calculator, grounding, rate, reply, tools
from kerasllm.dialogue.scores import _auc
from kerasllm.dialogue.writing import judged
from kerasllm.generation.endings import read_endings
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

WORDS = ["a", "b", "c"]
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{{ eos_token }}{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}a{% endif %}"


@pytest.fixture(scope="module")
def writer():
    tokenizer = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz ,.? UNSAFE SENSIBLE SPECIFIC INTERESTING 01"], kind="char")
    tokenizer.chat_template = TEMPLATE
    config = TransformerConfig(tokenizer.vocab_size, num_layers=2, d_model=32, num_heads=4, dff=64, max_length=128)
    model = CausalLM(config)
    generator = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.2 * generator.standard_normal(weight.shape))
    return model, tokenizer


@pytest.mark.parametrize(
    "options",
    [
        {"num_kv_heads": 1},
        pytest.param({"attention_window": [None, 4], "positions": "learned"}, marks=pytest.mark.soak),
    ],
)
def test_endings_of_shared_beginnings_have_the_logits_of_whole_texts(options):
    model = CausalLM(TransformerConfig(40, num_layers=2, d_model=32, num_heads=4, dff=64, max_length=64, **options))
    beginnings = [[3, 4, 5, 6, 7], [8, 9], [3, 4, 5, 6, 7]]
    endings, places = [[1, 2, 3], [4] * 20, [7, 8, 9, 10]], [[0, 2], [3, 19], [2, 3]]
    log_probs, logits = read_endings(model, beginnings, endings, places)
    for a, b, of_places, said, found in zip(beginnings, endings, places, log_probs, logits, strict=True):
        whole = np.asarray(model(np.array([a + b])))[0, len(a) - 1 : -1]
        np.testing.assert_allclose(found, whole[of_places], atol=1e-4)
        expected = whole - np.log(np.exp(whole).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(said[: len(b)], expected[np.arange(len(b)), b], atol=1e-4)
        assert not said[len(b) :].any()
    with pytest.raises(ValueError, match="A text of 70 tokens does not fit the model's context of 64"):
        read_endings(model, [[1] * 60], [[2] * 10], [[1]])


@pytest.mark.soak
def test_ratings_are_the_products_of_what_the_model_says_of_each(writer):
    """And sense is also shown by how much of a reply's information its dialogue brings."""
    model, tokenizer = writer
    messages = [{"role": "user", "content": "to be?"}, {"role": "assistant", "content": "not."}]
    expected, ids = [], tokenizer.encode_chat(messages, add_generation_prompt=False)

    def log_probability_of_end(ids, count):
        logits = np.asarray(model(np.array([ids])))[0, -count - 1 : -1].astype("float64")
        return (logits[np.arange(count), ids[-count:]] - np.log(np.exp(logits).sum(axis=-1))).sum()

    alone = tokenizer.encode("u<|endoftext|>anot.<|endoftext|>", parse_special=True)
    in_none = log_probability_of_end(alone, 5)
    share = (log_probability_of_end(ids, 5) - in_none) / -in_none
    for name, good in ATTRIBUTES.items():
        ids = [*ids, *tokenizer.encode(f" {name.upper()} ")]
        logits = np.asarray(model(np.array([ids])))[0, -1].astype("float64")
        of_ratings = np.exp(logits[[tokenizer.encode("0")[0], tokenizer.encode("1")[0]]])
        odds = of_ratings[good] / of_ratings[1 - good] * (np.exp(16 * share) if name == "sensible" else 1)
        expected.append(odds / (1 + odds))
        ids = [*ids, *tokenizer.encode(str(good))]
    expected[1:] = np.cumprod(expected[1:])
    np.testing.assert_allclose(rate(model, tokenizer, messages), expected, rtol=1e-4)
    assert rate(model, tokenizer, ["to be?", "not."]) == rate(model, tokenizer, messages)
    several = rate(model, tokenizer, [["to be?", "not."], ["why?", "so."], ["to be?", "yes."]], batch_size=2)
    np.testing.assert_allclose(several[0], expected, rtol=1e-4)
    assert several[1] != several[2]
    long = ["what is it?", "that."] * 12
    np.testing.assert_allclose(rate(model, tokenizer, long), rate(model, tokenizer, long[-8:]), rtol=1e-4)


def test_the_best_of_the_safe_candidates_is_the_answer(writer):
    chats, draw = ["to be?"], {"max_new_tokens": 8, "seed": 3}
    text, candidates = reply(*writer, chats, 6, return_candidates=True, min_safety=0, **draw)
    scores = [one.score for one in candidates]
    assert len(candidates) == 6 and scores == sorted(scores, reverse=True) and text == candidates[0].text
    assert len({one.text for one in candidates}) > 1
    best = candidates[0]
    assert best.score == pytest.approx(3 * best.ratings.sensible + best.ratings.specific + best.ratings.interesting)
    np.testing.assert_allclose(best.ratings, rate(*writer, [*chats, text]), rtol=1e-4)
    assert reply(*writer, chats, 6, min_safety=0, **draw) == text
    (named,) = judged(writer, [{"role": "user", "content": "to be?"}], ["User, no"], min_safety=0)
    assert named.text == "no" and named.ratings == rate(*writer, [*chats, "User, no"]) != rate(*writer, [*chats, "no"])

    least = sorted(one.ratings.safe for one in candidates)[3]
    safer, others = reply(*writer, chats, 6, return_candidates=True, min_safety=least, **draw)
    assert [one.score is None for one in others] == [False] * 3 + [True] * 3
    assert safer == others[0].text and min(one.ratings.safe for one in others[:3]) >= least
    assert reply(*writer, chats, 6, min_safety=1.1, fallback="I pass.", **draw) == "I pass."
    with pytest.raises(ValueError, match="`weights` has sensible, specific, interesting, got 'funny'"):
        reply(*writer, chats, weights={"funny": 1})
    with pytest.raises(ValueError, match=r"The last message of the dialogue must be the user's, got the assistant's"):
        reply(*writer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_replies_and_ratings_become_examples_and_bad_replies_do_not(writer):
    _, tokenizer = writer
    good = {"role": "assistant", "content": "good", "ratings": {"sensible": 1, "specific": 0}}
    bad = {"role": "assistant", "content": "bad", "ratings": {"unsafe": True}}
    chat = [{"role": "user", "content": "x"}, good, {"role": "user", "content": "y"}, bad]
    learned = []
    for inputs, labels, weight in dialogue_dataset([chat], tokenizer, 128, 1):
        ids, documents, labels, weight = (x.numpy()[0] for x in (*inputs.values(), labels, weight))
        for number in range(1, documents.max() + 1):
            kept = (documents == number) & (weight > 0)
            text = tokenizer.decode(ids[documents == number], skip_special=False)
            learned.append((tokenizer.decode(labels[kept]), text, set(weight[kept])))
    learned.sort()
    assert [text for text, _, _ in learned] == ["1", "10", "good", "good"]
    replied, alone = sorted(text.replace("<|endoftext|>", "|") for _, text, _ in learned[2:])
    assert (replied, alone) == ("ux|agood|uy", "u|agood")
    assert learned[0][1].endswith("abad<|endoftext|> UNSAFE ")  # a bad rating ends the text
    assert learned[1][1].endswith(
        "agood<|endoftext|> UNSAFE 0 SENSIBLE 1 SPECIFIC "
    )  # what is not known is not learned
    # A rating counts as the mean reply, with its end.
    assert [weights for _, _, weights in learned] == [{5}, {5}, {1}, {1}]
    with pytest.raises(ValueError, match="must be 0 or 1, or false or true, got 3 for sensible"):
        rated_ids(tokenizer, chat, {"sensible": 3})
    with pytest.raises(ValueError, match="must be a dict with some of unsafe, sensible, specific, interesting, got"):
        rated_ids(tokenizer, chat, {"nice": 1})
    same = Tokenizer.train(["abc"], kind="char", progress=False)
    with pytest.raises(ValueError, match="which do not differ in their last token alone"):
        rating_pieces(same)


def test_what_is_asked_of_tools_is_not_rated():
    turns = ["2+3?", "TS, 2+3", "TS, 5 [calculator]", "User, five"], ["x?", "x"]
    roles = 2 * ["user", "assistant"]
    chats = [[{"role": r, "content": t} for r, t in zip(roles, c, strict=False)] for c in turns]
    rated = [chat[-1]["content"] for chat in rate_replies(chats)]
    assert sorted(rated) == ["User, five", "User, five", "x", "x"]


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), min_size=2, max_size=8), st.integers(0, 5))
def test_made_ratings_follow_from_where_replies_are_from(dialogues, seed):
    """What is said ends with the number of its dialogue."""
    chats = [
        [{"role": role, "content": f"{word} {n}"} for word in words for role in ("user", "assistant")]
        for n, words in enumerate(dialogues)
    ]
    rated = rate_replies(chats, seed)
    assert rated == rate_replies(chats, seed) and not any("ratings" in m for chat in chats for m in chat)
    own = 0
    for *_, question, answer in rated:
        is_own = question["content"][-1] == answer["content"][-1]
        assert answer["ratings"].get("sensible") in ((1, None) if is_own else (0, None))
        own += is_own and answer["ratings"].keys() == {"sensible", "specific"}
    assert own == sum(map(len, dialogues))
    with pytest.raises(ValueError, match="Replies are drawn from other dialogues"):
        rate_replies(chats[:1])


def test_turns_are_messages(tmp_path):
    path = tmp_path / "turns.jsonl"
    path.write_text(json.dumps({"turns": ["a", {"content": "b", "ratings": {"sensible": 0}}]}))
    said = {"role": "assistant", "content": "b", "ratings": {"sensible": 0}}
    assert list(read_chats(path)) == [[{"role": "user", "content": "a"}, said]]


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("135+7721", "7856"),
        ("(2.5 - 1) * 4 =", "6"),
        ("1,000 × 3", "3000"),
        ("2^10?", "1024"),
        ("-7 // 2", "-4"),
        ("1/3", "0.333333333333"),
    ],
)
def test_the_calculator_computes(query, result):
    assert calculator(query) == [result]


@pytest.mark.parametrize(
    "query",
    *[
        [
            "how old?",
            "1984",
            "",
            "1/0",
            "9**9**9",
            "__import__('os').getcwd()",
            "a+1",
            "'a'*3",
            "(" * 150,
            "1e300*1e300",
            "(-8)**0.5",
            "True+1",
            "1" * 250,
        ]
    ],
)
def test_what_is_no_arithmetic_finds_nothing(query):
    assert calculator(query) == []


def test_tools_are_asked_at_most_four_times_and_answers_name_sources():
    asked = []

    def notes(query):
        return ["Ada Lovelace wrote the first program in 1843. [ada.md]"] if "Ada" in query else []

    def answer(messages):
        asked.append(messages[-1]["content"])
        return "TS, 2 + 3" if len(asked) < 3 else "User, It is 5."

    start = [{"role": "user", "content": "What is 2 and 3?"}]
    messages, findings = tools.with_tools(start, [calculator, notes], answer)
    assert findings == [("5", "calculator")] * 2 and len(messages) == 5
    assert asked[1:] == ["TS, 5 [calculator]"] * 2
    assert tools.addressed("User, It is 5.") == ("User", "It is 5.") and tools.addressed("It is.") == ("User", "It is.")
    assert tools.with_sources("It is 5.", findings, start) == "It is 5. [calculator]"
    assert tools.with_sources("It is 6.", findings, start) == "It is 6."

    asked.clear()
    messages, _ = tools.with_tools(start, [notes], lambda messages: asked.append(0) or "TS, nothing")
    assert len(asked) == tools.ROUNDS == 4 and messages[-1]["content"] == "TS, nothing found"
    found = tools.ask([calculator, notes], "Ada")
    assert found == [("Ada Lovelace wrote the first program in 1843.", "ada.md")]
    text = "She wrote the first program in 1843, says ada.md."
    assert tools.with_sources(text, found, start) == text
    with pytest.raises(TypeError, match="The tool <lambda> must give a list of str, got 'five'"):
        tools.ask([lambda query: "five"], "5")
    with pytest.raises(TypeError, match="`translator` needs a Seq2SeqLM, got NoneType"):
        dialogue.translator(None, None)


def test_claims_are_numbers_and_names_that_nobody_has_said():
    said = "Who wrote Hamlet?"
    assert grounding.makes_claims("It was Shakespeare.", said) and grounding.makes_claims("In 1600.", said)
    assert not grounding.makes_claims("I like Hamlet too. Really.", said)
    assert not grounding.supports("Shakespeare wrote it in 1600.", "Shakespeare did in 1601.", said)


def test_documents_are_found_by_their_words(tmp_path):
    pytest.importorskip("bm25s")
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "hamlet.md").write_text("Hamlet was written by Shakespeare.\n\n" + "Of other things. " * 40)
    (tmp_path / "cats.txt").write_text("Cats sleep most of the day.")
    notes = dialogue.documents(tmp_path, count=1)
    assert notes("Who wrote Hamlet?") == ["Hamlet was written by Shakespeare. [plays/hamlet.md]"]
    assert notes("the") == notes("zebra") == notes("") == []
    with pytest.raises(FileNotFoundError):
        dialogue.documents(tmp_path / "none")


def test_the_area_under_the_curve_counts_pairs():
    good, bad = np.array([0.9, 0.5, 0.5]), np.array([0.5, 0.1])
    pairs = [(a > b) + 0.5 * (a == b) for a in good for b in bad]
    assert _auc(good, bad) == pytest.approx(np.mean(pairs))


def test_what_a_judge_finds_bad_is_not_kept(writer):
    chats = [
        [{"role": "user", "content": t}, {"role": "assistant", "content": "so it is.", "ratings": {"unsafe": 1}}]
        for t in ("a", "b")
    ]
    found = [rate(*writer, chat).sensible for chat in chats]
    kept = dialogue.keep_good(*writer, chats, min_safety=0, min_sense=np.mean(found))
    assert [chat[0]["content"] for chat in kept] == ["ab"[int(np.argmax(found))]] and "ratings" not in kept[0][1]


@pytest.mark.soak
@pytest.mark.usefixtures("few_rounds")
def test_a_model_learns_to_write_and_to_judge_and_is_measured(writer, tmp_path, capsys):
    """Replies of one letter: those that repeat the question's make sense."""
    kerasllm.save(*writer, tmp_path / "base")
    letters = "bcdfghjklm"
    turns = [
        [a, {"content": b, "ratings": {"sensible": int(a == b)}}] for a in letters for b in (a, letters[ord(a) % 10], a)
    ]
    data = tmp_path / "dialogues.jsonl"
    data.write_text("".join(json.dumps({"turns": one}) + "\n" for one in turns))
    out, tune = tmp_path / "run", ["tune", "--task", "dialogue", "--model", str(tmp_path / "base"), "--data", str(data)]
    options = ["--valid", str(data), "--max-length", "64", "--adapter", "none", "--lr", "0.01", "--batch-size", "4"]
    assert main([*tune, *options, "--steps", "60", "--out", str(out)]) == 0
    results = json.loads((out / "run.json").read_text())["results"]
    assert results["sensible_auc"] > 0.9 and results["rated"] == 30
    assert main(["inspect", str(out)]) == 0
    assert "good rated higher than bad, sensible" in " ".join(capsys.readouterr().out.split())

    judged = ["--judge", str(out), "--candidates", "3"]
    written = tmp_path / "scores.json"
    assert (
        main(
            ["evaluate", "--task", "dialogue", "--model", str(out), "--data", str(data), *judged, "--out", str(written)]
        )
        == 0
    )
    scores = json.loads(written.read_text())
    assert scores["replies"] == 30 and scores["sensibleness"] > 0.8 and scores["groundedness"] is None
    assert "replies that make sense" in capsys.readouterr().out
    assert main(["evaluate", "--model", str(out), "--data", str(data), *judged]) == 2
    assert "--judge is for --task dialogue" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(out), "--data", str(data), "--min-safety", "0.2"]) == 2
    assert "--min-safety is for --task dialogue" in capsys.readouterr().err
    steps = ["--steps", "1", "--judge", str(out), "--out", str(tmp_path / "second")]
    assert main([*tune, *options, *steps]) == 0
    assert f"{out} finds" in " ".join(capsys.readouterr().out.split())
