"""Learning from rewards: the loss beside NumPy, the update however a batch is cut, and whose answers they are."""

import json

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.losses import GRPO
from kerasllm.models import CausalLM, RewardModel, TransformerConfig
from kerasllm.reinforcement import (
    drawing,
    exact,
    group_dataset,
    gym_score,
    gym_tasks,
    json_schema,
    length,
    load_reward,
    read_tasks,
    regex,
)

TOKENIZER = kerasllm.tokenizers.Tokenizer.train(["0123456789+="], kind="char", progress=False)
SIZES = {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 24}
TASKS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in [(1, 2), (12, 3), (4, 4)]]
G = 4


def make(seed=0, kind=CausalLM):
    model = kind(TransformerConfig(vocab_size=TOKENIZER.vocab_size, **SIZES))
    draw = np.random.default_rng(seed)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def policy():
    """A model that no test trains, so that what it draws with is compiled once."""
    return make()


def odd(prompt, answer):
    return float(len(answer) % 2) + 0.1 * answer.count("1")


def groups(model, reward=odd, **options):
    options = {"batch_size": 3, "group_size": G, "max_new_tokens": 5, **options}
    return group_dataset(model, TOKENIZER, TASKS, reward, **options)


def repeated(batch):
    """A batch of answers that were drawn, as a data set."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(batch)


def log_probs(model, batch):
    """Of the labels, (B, G, T)."""
    ids, documents, labels, weight = (
        np.array(a).reshape(len(TASKS) * G, -1) for a in (*batch[0].values(), batch[1]["labels"], batch[2])
    )
    inputs = {"token_ids": ids, "document_ids": documents}
    return np.array(model.log_probabilities(inputs, np.maximum(labels, 0), weight)).reshape(batch[2].shape)


def fitted(loss, batch, micro_batches=1, seed=0):
    model = make(seed)
    model.compile(keras.optimizers.SGD(1.0), loss, micro_batches=micro_batches)
    before = model.get_weights()
    logs = model.fit(repeated(batch), verbose=0).history
    return {name: values[0] for name, values in logs.items()}, [
        a - b for a, b in zip(before, model.get_weights(), strict=True)
    ]


def said(model, ids, is_learned):
    """Log-probabilities of the tokens of an answer, of one text alone, by NumPy."""
    logits = np.array(model(ids[None]))[0].astype("float64")
    found = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return found[np.arange(len(ids) - 1), ids[1:]][is_learned]


def expected(model, reference, batch, old, beta, epsilon, scale):
    """The loss and what is reported beside it, answer by answer."""
    inputs, targets, weight = keras.tree.map_structure(np.array, batch)
    tokens, divergences, lengths = [], [], []
    for group in range(len(weight)):
        rewards = targets["rewards"][group].astype("float64")
        advantages = rewards - rewards.mean()
        advantages = advantages / (rewards.std(ddof=1) + 1e-4) if scale else advantages
        for row in range(G):
            count = int(inputs["document_ids"][group, row].sum())
            answer = inputs["token_ids"][group, row, :count], weight[group, row, : count - 1] > 0
            new, other = said(model, *answer), said(reference, *answer)
            before = new if old is None else said(old, *answer)
            ratio = np.exp(new - before)
            gain = ratio * advantages[row]
            if epsilon:
                gain = np.minimum(gain, np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantages[row])
            kl = np.exp(other - new) - (other - new) - 1
            tokens.append(-gain + beta * ratio * kl)
            divergences.append(kl.mean())
            lengths.append(len(new))
    tokens = np.concatenate(tokens)
    return {
        "loss": tokens.mean(),
        "reward": targets["rewards"].mean(),
        "answer_tokens": np.mean(lengths),
        "kl": np.mean(divergences),
    }


@pytest.mark.parametrize(
    ("beta", "epsilon", "scale"), [(0.0, None, False), pytest.param(0.3, 0.05, True, marks=pytest.mark.soak)]
)
def test_numbers_are_those_of_numpy(beta, epsilon, scale, policy):
    model, reference, old = policy, make(1), make(2)
    batch = next(iter(groups(old if epsilon else model, reference=reference)))
    if epsilon:  # drawn by an older model
        batch[1]["old_log_probs"] = log_probs(old, batch)
    wanted = expected(model, reference, batch, old if epsilon else None, beta, epsilon, scale)
    found, changes = fitted(GRPO(beta, epsilon, scale, chunk_size=7), batch)
    for name, value in found.items():
        assert value == pytest.approx(wanted[name], abs=2e-5), name
    in_parts, others = fitted(GRPO(beta, epsilon, scale, chunk_size=7), batch, micro_batches=4)
    assert in_parts == pytest.approx(found, abs=1e-5)
    for one, other in zip(changes, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert max(np.abs(change).max() for change in changes) > 1e-3


def test_gradient_is_that_of_the_mean_reward(policy):
    """By finite differences of advantages times log-probabilities, in the direction that the step took."""
    batch = next(iter(groups(policy)))
    _, changes = fitted(GRPO(), batch)
    targets = np.array(batch[1]["rewards"], "float64")
    advantages = targets - targets.mean(axis=1, keepdims=True)

    model = make()
    weights = model.get_weights()

    def objective(scale):
        model.set_weights([w - scale * c for w, c in zip(weights, changes, strict=True)])
        return -(log_probs(model, batch) * advantages[..., None]).sum() / np.array(batch[2]).sum()

    slope = (objective(1e-2) - objective(-1e-2)) / 2e-2
    assert slope == pytest.approx(-sum((change.astype("float64") ** 2).sum() for change in changes), rel=1e-2)


def test_equal_rewards_change_nothing():
    model = make()
    model.compile(kerasllm.optimizers.AdamW(1e-2, weight_decay=0.0), GRPO())
    before = model.get_weights()
    model.fit(groups(model, lambda prompt, answer: 0.9, group_size=3, epochs=3), verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.soak
def test_answers_are_of_the_model_as_it_is(tmp_path, monkeypatch):
    """Of its weights at that step; a run that goes on draws what the whole run drew, and learns the same."""
    seen, after, draw = [], [], drawing.draw

    def told(policy, *arguments):
        seen.append(policy.get_weights()[0].tobytes())
        return draw(policy, *arguments)

    def run(start_step, epochs, weights=None):
        model = make()
        model.compile(keras.optimizers.SGD(0.5), GRPO())
        if weights is not None:
            model.set_weights(weights)
        data = groups(model, batch_size=1, epochs=epochs, start_step=start_step, log=tmp_path / "answers.jsonl")
        told_after = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: after.append(model.get_weights()[0].tobytes())
        )
        model.fit(data, verbose=0, shuffle=False, callbacks=[told_after])
        return model.get_weights()

    monkeypatch.setattr(kerasllm.reinforcement.groups, "draw", told)
    whole = run(0, 2)
    assert len(set(after)) == 6
    assert seen[1:] == after[:-1]
    lines = (tmp_path / "answers.jsonl").read_text()
    half = run(0, 1)
    resumed = run(3, 2, half)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "answers.jsonl").read_text() == lines
    line = json.loads(lines.splitlines()[-1])
    assert (line["step"], len(lines.splitlines())) == (6, 6 * G)
    assert line["reward"] == pytest.approx(odd(line["prompt"], line["answer"]), abs=1e-5)


def test_an_answer_is_learned_to_its_end(policy):
    inputs, targets, weight = keras.tree.map_structure(np.array, next(iter(groups(policy, batch_size=1))))
    endings = set()
    for row in range(G):
        learned = targets["labels"][0, row][weight[0, row] > 0]
        ends = learned == TOKENIZER.end_id
        endings.add(bool(ends[-1]))
        assert not ends[:-1].any()
        assert ends[-1] or len(learned) == 5
        prompt = inputs["token_ids"][0, row, : int(inputs["document_ids"][0, row].sum()) - len(learned)]
        assert TOKENIZER.decode(prompt.tolist()) in [task["prompt"] for task in TASKS]


def test_a_reward_model_reads_prompt_and_answer(policy):
    judge = make(3, RewardModel)
    inputs, targets, _ = next(iter(groups(policy, [judge, lambda prompt, answer: 2.0], batch_size=1)))
    for row in range(G):
        count = int(np.sum(inputs["document_ids"][0, row]))
        alone = float(judge(inputs["token_ids"][0, row : row + 1, :count])[0, 0])
        assert float(targets["rewards"][0, row]) == pytest.approx(alone + 2, abs=1e-5)


def test_ready_rewards(tmp_path):
    assert [exact("", answer, {"answer": 46}) for answer in (" 46\n", "46.", "")] == [1, 0, 0]
    assert [regex(r"is (\d+)")("", text, {"answer": "7"}) for text in ("it is 6, is 7", "is 7, is 6")] == [1, 0]
    assert [regex(r"\d")("", text, {}) for text in ("a1", "a")] == [1, 0]
    assert [length(4)("", "a" * n) for n in (0, 4, 6, 8, 99)] == [1, 1, 0.5, 0, 0]
    (tmp_path / "own.py").write_text("def mine(prompt, answer):\n    return len(prompt) - len(answer)\n")
    assert load_reward(f"{tmp_path}/own.py:mine")("abc", "d") == 2
    for name, message in {
        "nothing": "There is no reward 'nothing': it is exact, regex:PATTERN",
        "regex:(": "'(' is no regular expression",
        f"{tmp_path}/own.py:other": "has no function 'other'",
    }.items():
        with pytest.raises(ValueError) as raised:
            load_reward(name)
        assert message in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"There is no file none\.py"):
        load_reward("none.py:mine")
    pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install jsonschema")
    schema = {"type": "object", "required": ["a"]}
    texts = ['{"a": 1}', '{"b": 1}', "{", "[" * 100_000]
    assert [json_schema(schema)("", text, {}) for text in texts] == [1, 0, 0, 0]
    assert json_schema()("", '{"a": 1}', {"schema": schema}) == 1
    with pytest.raises(ValueError, match="is no JSON schema"):
        json_schema({"type": "nothing"})


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        ("exact", TypeError, "A reward is a function"),
        ([], ValueError, "There is no reward"),
        (lambda prompt, answer: "good", Exception, "gives numbers, and gave 'good'"),
        (lambda prompt, answer: float("nan"), Exception, "must give finite numbers, and gave nan"),
    ],
)
def test_what_is_no_reward_is_refused(policy, reward, error, message):
    with pytest.raises(error, match=message):
        next(iter(groups(policy, reward, batch_size=1)))


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_reward_that_fails_says_where_and_why(policy, eagerly):
    def broken(prompt, answer):
        return {"town": 1.0}["city"]

    policy.compile("sgd", GRPO(), run_eagerly=eagerly)
    message = r"The reward broken failed for '.*' \(test_reinforcement\.py, line \d+\): KeyError: 'city'$"
    with pytest.raises(ValueError, match=message) as raised:
        (policy.fit if eagerly else policy.evaluate)(groups(policy, broken, batch_size=1), verbose=0)
    assert isinstance(raised.value.__cause__, KeyError)


def test_tasks_of_reasoning_gym_are_made_and_judged(tmp_path):
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install reasoning-gym")
    made = gym_tasks("chain_sum", size=3, seed=1, max_terms=2)
    assert made == gym_tasks("chain_sum", size=3, seed=1, max_terms=2) != gym_tasks("chain_sum", size=3, seed=1)
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in made))
    for task in read_tasks(tmp_path / "tasks.jsonl"):
        scores = [gym_score("", answer, task) for answer in (f" {task['answer']}.0\n", task["answer"] + "1", "", "x")]
        assert scores[0] == 1 > max(scores[1:])
    (task,) = read_tasks("reasoning_gym:prime_factorization:1:7")
    assert load_reward("reasoning_gym")("", "no number", task) == 0  # which the package raises for
    for source, message in {
        "reasoning_gym:chain_sums": "has no tasks 'chain_sums'. Did you mean `chain_sum`?",
        "reasoning_gym:chain_sum:many": "NAME:SIZE or with :SEED, not",
        "reasoning_gym:chain_sum:0": "makes no chain_sum with size=0",
        "reasoning_gym:n_queens": "runs Python code where it judges n_queens",
    }.items():
        with pytest.raises(ValueError) as raised:
            list(read_tasks(source))
        assert message in str(raised.value)
    with pytest.raises(ValueError, match="Another version of reasoning-gym made this task"):
        gym_score("", "1", {**made[0], "answer": "another"})
    with pytest.raises(ValueError, match="judges its own tasks"):
        gym_score("", "1", TASKS[0])


def test_what_is_no_task_is_refused(policy, tmp_path):
    with pytest.raises(ValueError, match="leave no space for an answer of max_new_tokens=23 in the 24 tokens"):
        groups(policy, max_new_tokens=23)
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "a"}\n{"question": "b"}\n')
    with pytest.raises(ValueError, match=r'tasks\.jsonl, line 2 has no "prompt"'):
        list(read_tasks(tmp_path / "tasks.jsonl"))
    for options, message in {"beta": "`beta` must be at least 0", "epsilon": "`epsilon` must be above 0"}.items():
        with pytest.raises(ValueError, match=message):
            GRPO(**{options: -1.0})


def test_the_loss_is_saved_with_its_model(tmp_path):
    model = make()
    model.compile("sgd", GRPO(0.1, 0.2, True))
    model.save(tmp_path / "model.keras")
    loss = keras.models.load_model(tmp_path / "model.keras").loss
    assert loss.get_config() == {"name": "grpo", "beta": 0.1, "epsilon": 0.2, "scale_by_std": True, "chunk_size": 256}
