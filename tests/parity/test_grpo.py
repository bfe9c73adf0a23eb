"""GRPO beside TRL's trainer (1.16): the same loss and gradients of the same answers, from the same tiny model."""

import contextlib
import io
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasllm
from kerasllm.losses import GRPO
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.reinforcement import group_dataset

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
pytest.importorskip("trl", reason="TRL is not installed: pip install trl==1.16.0")
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import datasets  # noqa: E402
import trl  # noqa: E402
from parity.torch_gradients import check_step  # noqa: E402

pytestmark = pytest.mark.parity

G, TOKENS = 4, 6
TASKS = [{"prompt": "ab"}, {"prompt": "one two"}]


def make(tokenizer, seed):
    options = {"num_kv_heads": 2, "max_length": 32}
    config = TransformerConfig.preset(
        "llama", vocab_size=tokenizer.vocab_size, num_layers=2, d_model=24, num_heads=4, dff=40, **options
    )
    model, draw = CausalLM(config), np.random.default_rng(seed)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    return model


def reward(prompt, answer):
    return len(answer) / 4 + answer.count("a")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Three models far from each other, the folder of the first for transformers, and what the third one drew."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz *"], kind="char", progress=False)
    model, reference, old = (make(tokenizer, seed) for seed in range(3))
    kerasllm.huggingface.save(model, tokenizer, folder / "policy")
    batch = next(
        iter(group_dataset(old, tokenizer, TASKS, reward, 2, G, TOKENS, reference=reference, seed=1, shuffle=False))
    )
    return folder, tokenizer, model, old, keras.tree.map_structure(np.array, batch)


def log_probs(model, batch):
    inputs, targets, weight = keras.tree.map_structure(lambda array: array.reshape(2 * G, -1), batch)
    targets.pop("rewards", None)
    return np.array(model.log_probabilities(inputs, np.maximum(targets["labels"], 0), weight)).reshape(2, G, -1)


def as_theirs(batch, advantages):
    """Prompts on the left of a common place, answers on its right."""
    inputs, targets, weight = batch
    rows = {name: [] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")}
    others = {name: [] for name in ("old_per_token_logps", "ref_per_token_logps")}
    for group in range(2):
        for row in range(G):
            is_learned = weight[group, row] > 0
            answer = targets["labels"][group, row][is_learned]
            count = int(inputs["document_ids"][group, row].sum()) - len(answer)
            prompt, left, right = inputs["token_ids"][group, row, :count], 8 - count, TOKENS - len(answer)
            rows["prompt_ids"].append(np.pad(prompt, (left, 0)))
            rows["prompt_mask"].append(np.pad(np.ones_like(prompt), (left, 0)))
            rows["completion_ids"].append(np.pad(answer, (0, right)))
            rows["completion_mask"].append(np.pad(np.ones_like(answer), (0, right)))
            for name, ours in (
                ("old_per_token_logps", "old_log_probs"),
                ("ref_per_token_logps", "reference_log_probs"),
            ):
                others[name].append(np.pad(targets[ours][group, row][is_learned], (0, right)))
    tensors = {name: torch.tensor(np.array(values), dtype=torch.long) for name, values in rows.items()}
    tensors |= {name: torch.tensor(np.array(values), dtype=torch.float32) for name, values in others.items()}
    tokens = tensors["completion_mask"].sum()
    return {**tensors, "advantages": torch.tensor(advantages.ravel()), "num_items_in_batch": tokens}


@pytest.mark.parametrize(("beta", "epsilon", "scale"), [(0.0, 0.2, False), (0.3, 0.05, True)])
def test_loss_and_gradients_are_those_of_trl(beta, epsilon, scale, setting, tmp_path):
    folder, tokenizer, model, old, batch = setting
    batch[1]["old_log_probs"] = log_probs(old, batch)
    loss = GRPO(beta, epsilon, scale)
    advantages = np.array(loss.advantages(batch[1]["rewards"]))
    policy = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    policy.get_input_embeddings().padding_idx = None  # which this model draws like any other id
    options = trl.GRPOConfig(
        output_dir=str(tmp_path / "theirs"), beta=beta, epsilon=epsilon, loss_type="bnpo", num_generations=G,
        per_device_train_batch_size=2 * G, max_completion_length=TOKENS, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False,
        scale_rewards="group" if scale else "none",
    )  # fmt: skip
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    theirs.pad_token = theirs.pad_token or theirs.eos_token or "*"
    data = datasets.Dataset.from_list(TASKS)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = trl.GRPOTrainer(policy, lambda **_: [0.0], args=options, train_dataset=data, processing_class=theirs)
    policy.train()
    trainer.current_gradient_accumulation_steps = 1  # what its training loop sets
    their_loss = trainer._compute_loss(policy, as_theirs(batch, advantages))
    their_loss.backward()

    ours, before = make(tokenizer, 0), model.get_weights()
    ours.compile(keras.optimizers.SGD(1.0), loss, micro_batches=2)
    history = ours.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
    assert history["loss"][0] == pytest.approx(float(their_loss.detach()), abs=1e-5)
    check_step(ours, before, policy, folder / "policy" / "tokenizer.json", tmp_path / "gradients")
