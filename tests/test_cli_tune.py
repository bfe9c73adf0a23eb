"""`kerasllm tune`: conversations and a model in, a run folder out that talks; what cannot be tuned is one sentence."""

import dataclasses
import itertools
import json
import os
import signal

import numpy as np
import pytest
from test_adapters import LLAMA, far
from test_tuned_runs import stored

import kerasllm
from kerasllm.cli import main
from kerasllm.models import CausalLM, MaskedLM

pytestmark = pytest.mark.usefixtures("few_rounds")
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
SMALL = ["--max-length", "16", "--batch-size", "2", "--lr", "0.02", "--epochs", "4", "--seed", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base with a chat template and one without, and conversations in which a letter is answered with the next."""
    folder = tmp_path_factory.mktemp("tune")
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz "], kind="char", progress=False)
    model = far(CausalLM(dataclasses.replace(LLAMA, num_layers=1, vocab_size=tokenizer.vocab_size)))
    kerasllm.save(model, tokenizer, folder / "plain")
    tokenizer.chat_template = TEMPLATE
    kerasllm.save(model, tokenizer, folder / "base")
    kerasllm.save(MaskedLM(LLAMA), tokenizer, folder / "masked")
    letters = "abcdefghijklmnopqrstuvwxyz"
    chats = [{"prompt": letter, "completion": next_} for letter, next_ in itertools.pairwise(letters)] * 2
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    (folder / "questions.txt").write_text("a\n\nc <|b\n")
    return folder


def tune(folder, out, *more, model="base"):
    data = ["--data", str(folder / "chats.jsonl"), "--out", str(out)]
    return main(["tune", "--model", str(folder / model), *data, *SMALL, *more])


def test_a_model_is_tuned_and_answers_are_shown_side_by_side(folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert tune(folder, run, "--rank", "4", "--test", str(folder / "questions.txt")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Training 928 of 3,392 parameters" in printed and f"kerasllm chat --model {run}" in printed
    record = json.loads((run / "run.json").read_text())
    settings, results = record["settings"], record["results"]
    assert (settings["rank"], settings["alpha"], settings["learning_rate"], settings["packed"]) == (4, 32, 0.02, True)
    assert results["loss"] < 0.99 * results["loss_before"] and results["conversations"] == 5
    assert {"log.csv", "plot.png", "settings.yaml"} < {path.name for path in run.iterdir()}
    assert all("/adapters/" in name for name in stored(run))

    model, tokenizer = kerasllm.load(run)
    held_out = list(kerasllm.data.read_chats(folder / "chats.jsonl"))[-5:]
    data = kerasllm.data.chat_dataset(held_out, tokenizer, 16, 1, packed=False, shuffle=False)
    model.compile()
    assert results["loss"] == pytest.approx(model.evaluate(data, verbose=0)[0], rel=1e-4)
    page, before = (run / "answers.md").read_text(), json.loads((run / "before.json").read_text())["answers"][1]
    after = kerasllm.chat(model, tokenizer, [{"role": "user", "content": "c <|b"}], max_new_tokens=16)
    assert f"> **user:** c &lt;|b\n\n| before | after |\n|---|---|\n| {before.strip()} | {after.strip()} |" in page
    assert before != after and page.count("| before | after |") == 2

    assert main(["convert", str(run), str(tmp_path / "theirs")]) == 0
    ids = np.array([tokenizer.encode("abcdef")])
    whole, _ = kerasllm.load(run, dtype="float32")
    np.testing.assert_allclose(kerasllm.load(tmp_path / "theirs")[0](ids), whole(ids), atol=1e-4)
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "and after" in shown and str(folder / "base") in "".join(shown.split())


@pytest.mark.soak
@pytest.mark.parametrize("more", [["--adapter", "dora"], ["--quantize", "nf4"]], ids=lambda more: more[-1])
def test_a_run_goes_on_to_the_bit(more, folder, tmp_path, monkeypatch, capsys):
    left = 7

    def interrupt(*_, **__):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    options = ["--chat-format", "chatml", "--dropout", "0.2", "--max-length", "32", *more]
    assert tune(folder, tmp_path / "whole", *options, model="plain") == 0
    assert "Training the rows of 2 new tokens too" in " ".join(capsys.readouterr().out.split())
    with monkeypatch.context() as patch:
        patch.setattr("kerasllm.callbacks.StopAfter.on_train_batch_begin", interrupt)
        with pytest.raises(SystemExit):
            tune(folder, tmp_path / "run", *options, model="plain")
    assert main(["tune", "--resume", str(tmp_path / "run")]) == 0
    assert "Going on after step 6" in " ".join(capsys.readouterr().out.split())
    whole, run = (tmp_path / name / "model.safetensors" for name in ("whole", "run"))
    assert run.read_bytes() == whole.read_bytes()
    model, tokenizer = kerasllm.load(tmp_path / "run")
    assert model.config.vocab_size == tokenizer.vocab_size == 33 and "im_start" in tokenizer.chat_template
    assert {name for name in stored(tmp_path / "run") if "adapters" not in name} == set()


@pytest.mark.soak
def test_all_of_a_model_is_tuned_from_a_file_of_settings(folder, tmp_path):
    settings = {"base": str(folder / "base"), "data": str(folder / "chats.jsonl"), "adapter": "none", "steps": 3}
    (tmp_path / "tune.yaml").write_text(json.dumps({**settings, "batch_size": 2, "model": {"max_length": 16}}))
    run = tmp_path / "run"
    assert main(["tune", "--config", str(tmp_path / "tune.yaml"), "--set", "model.remat=block", "--out", str(run)]) == 0
    settings = json.loads((run / "run.json").read_text())["settings"]
    found = [settings[name] for name in ("learning_rate", "rank", "epochs", "task")]
    assert found == [2e-5, None, None, "tune"]
    assert "token_embedding/embeddings" in stored(run) and kerasllm.load(run)[0].config.remat == "block"


BAD = {
    "no template": (["--model", "plain"], "plain has no chat template, so its model has not learned to chat: --chat-"),
    "no base": ([], "Nothing to tune: give --model a run folder"),
    "another kind": (["--model", "masked"], "A causal model is tuned, and masked holds a MaskedLM"),
    "rank": (["--model", "base", "--rank", "0"], "rank takes a whole number of at least 1, not 0"),
    "pattern": (
        ["--model", "base", "--adapter-layers", "q_prj"],
        "is called 'q_prj': it has attention/query, attention/key",
    ),
    "rank of nothing": (
        ["--model", "base", "--adapter", "none", "--rank", "4"],
        "rank does nothing without an adapter",
    ),
    "width": (["--model", "base", "--set", "model.d_model=4"], "model.d_model does nothing for the task tune: base"),
    "window": (["--model", "base", "--max-length", "99"], "max_length=99 is more than the 32 tokens that base takes"),
    "empty answer": (["--model", "base", "--data", "empty.jsonl"], "empty.jsonl, line 1, message 2 is an empty answer"),
    "assistant": (["--model", "base", "--data", "assistant.jsonl"], "line 1 starts with the assistant"),
    "few": (["--model", "base", "--data", "few.jsonl"], "1 conversations are too few to keep some for validation"),
    "format": (["--model", "base", "--chat-format", "chatlm"], "There is no chat format 'chatlm'"),
    "questions": (["--model", "base", "--test", "nothing.txt"], "nothing.txt"),
}


@pytest.mark.parametrize(("flags", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_tuned_is_one_sentence(flags, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    chats = {
        "empty": {"prompt": "a", "completion": " "},
        "assistant": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
        "few": {"prompt": "a", "completion": "b"},
    }
    for name, chat in chats.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(chat) + "\n")
    data = [] if "--data" in flags else ["--data", "chats.jsonl"]
    assert main(["tune", *flags, *data, "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("kerasllm tune: ") and message in error
    assert not (tmp_path / "new").exists()


def test_other_tasks_take_no_base(folder, tmp_path, capsys):
    arguments = ["--data", str(folder / "questions.txt"), "--base", "base", "--out", str(tmp_path / "new")]
    assert main(["train", *arguments]) == 2
    assert "base does nothing for the task causal: leave it out" in capsys.readouterr().err


@pytest.mark.soak
def test_a_model_learns_from_rewards(folder, tmp_path, capsys):
    tasks, run = tmp_path / "tasks.jsonl", tmp_path / "run"
    tasks.write_text("".join(json.dumps({"prompt": letter, "answer": letter}) + "\n" for letter in "abcdefghij"))
    own = "def many_b(prompt, answer):\n    return answer.count('b')\ndef broken(prompt, answer):\n    return {}['b']\n"
    (tmp_path / "own.py").write_text(own)
    given = ["tune", "--task", "reward", "--model", str(folder / "base"), "--data", str(tasks), "--steps", "4"]
    given += ["--batch-size", "3", "--group-size", "4", "--answer-tokens", "5", "--lr", "0.02", "--save-every", "2"]
    assert main([*given, "--beta", "0.1", "--reward", f"{tmp_path}/own.py:many_b", "length:2", "--out", str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "reward of answers before" in printed and "divergence from the model before" in printed
    assert f"Next: kerasllm chat --model {run} " in printed
    results = json.loads((run / "run.json").read_text())["results"]
    assert results["tasks"] == 1 and {"reward", "reward_before", "answer_tokens", "kl"} < results.keys()
    lines = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [step for step in (1, 2, 3, 4) for _ in range(12)]
    for line in lines:
        assert line["prompt"][0]["role"] == "user"
        assert line["rewards"]["many_b"] == line["answer"].count("b")
        assert line["reward"] == pytest.approx(sum(line["rewards"].values()), abs=1e-5)

    for more, message in {
        (): "Nothing says what an answer is worth: give --reward",
        ("--reward", "exact", "--adapter", "none", "--beta", "0.1"): "beta=0.1 keeps a model near to what it was",
        ("--reward", "exact", "--loss", "dpo"): "loss does nothing for the task reward",
        ("--reward", "best"): "There is no reward 'best'",
        ("--reward", f"{tmp_path}/own.py:broken"): "(own.py, line 4): KeyError: 'b'",
    }.items():
        assert main([*given, *more, "--out", str(tmp_path / "other")]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert message in error and len(error) < 250

    plain = [str(folder / "plain") if word == str(folder / "base") else word for word in given]
    assert main([*plain, "--steps", "1", "--reward", "exact", "--out", str(tmp_path / "plain run")]) == 0
    assert f"kerasllm generate --model '{tmp_path / 'plain run'}' --prompt j" in capsys.readouterr().out
