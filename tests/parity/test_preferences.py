"""Losses over preferences beside TRL's trainers (1.16): the same loss, gradients and steps from the same tiny model."""

import contextlib
import io
import os

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.data import preference_dataset
from kerasllm.losses import DPO, KTO, ORPO, SimPO
from kerasllm.models import RewardModel
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
pytest.importorskip("trl", reason="TRL is not installed: pip install trl==1.16.0")
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import datasets  # noqa: E402
import trl  # noqa: E402
from parity.torch_gradients import check_step  # noqa: E402
from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # noqa: E402

pytestmark = pytest.mark.parity

PAIRS = [
    {"prompt": "ab", "chosen": "cd", "rejected": "x"},
    {"prompt": "one two", "chosen": "three", "rejected": "four"},
    {"prompt": "q", "chosen": "rstuvw", "rejected": "rstuvy"},
    {"prompt": "lm", "chosen": "n", "rejected": "ooooo"},
]
SINGLES = [
    {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
    for pair, name in zip(PAIRS, ["chosen", "rejected", "rejected", "chosen"], strict=True)
]
OPTIONS = {"per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True, "beta": 0.3, "bf16": False}
OPTIONS |= {"disable_dropout": True, "logging_strategy": "no", "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A policy and a reference in Hugging Face's format, far from each other and from where models begin."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz *"], kind="char", progress=False)
    tokenizer.save(folder / "tokenizer")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer" / "tokenizer.json"),
        eos_token="<|endoftext|>",
        pad_token="*",
    )
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=40, max_position_embeddings=32, bos_token_id=None,
        eos_token_id=tokenizer.end_id, pad_token_id=tokenizer.encode("*")[0],
    )  # fmt: skip
    for seed, name in enumerate(("policy", "reference")):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(folder / name)
        theirs.save_pretrained(folder / name)
    torch.manual_seed(2)
    model = transformers.LlamaForSequenceClassification.from_pretrained(folder / "policy", num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    model.save_pretrained(folder / "reward")
    theirs.save_pretrained(folder / "reward")
    return folder


def torch_model(folder, kind="LlamaForCausalLM"):
    return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)


def theirs(name, folders, tmp_path):
    """A trainer of TRL's, its model and the batch of all examples."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders / "policy")
    data = datasets.Dataset.from_list(SINGLES if name == "kto" else PAIRS)
    options = {**OPTIONS, "output_dir": str(tmp_path / "theirs")}
    policy, reference = torch_model(folders / "policy"), torch_model(folders / "reference")
    common = {"train_dataset": data, "processing_class": tokenizer}
    with contextlib.redirect_stdout(io.StringIO()):
        if name in ("dpo", "ipo"):
            kind = ["sigmoid"] if name == "dpo" else ["ipo"]
            trainer = trl.DPOTrainer(policy, reference, trl.DPOConfig(**options, loss_type=kind), **common)
        elif name == "kto":
            options["train_sampling_strategy"] = "sequential"
            trainer = trl.KTOTrainer(policy, reference, trl.KTOConfig(**options), **common)
        elif name == "orpo":
            trainer = ORPOTrainer(policy, ORPOConfig(**options), **common)
        elif name == "simpo":
            more = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.5}
            trainer = CPOTrainer(policy, CPOConfig(**options, **more), **common)
        else:
            options.pop("beta")
            policy = torch_model(folders / "reward", "LlamaForSequenceClassification")
            trainer = trl.RewardTrainer(policy, trl.RewardConfig(**options), **common)
        batch = next(iter(trainer.get_train_dataloader()))
    return trainer, policy, batch


def ours(name, folders):
    model, tokenizer = kerasllm.huggingface.load(folders / ("reward" if name == "reward" else "policy"))
    if name == "reward":
        return RewardModel.from_model(model), preference_dataset(PAIRS, tokenizer, 32, 4, shuffle=False), None
    reference, _ = kerasllm.huggingface.load(folders / "reference")
    records = SINGLES if name == "kto" else PAIRS
    data = preference_dataset(records, tokenizer, 32, 4, shuffle=False, reference=reference)
    losses = {"dpo": DPO(0.3), "ipo": DPO(0.3, "ipo"), "orpo": ORPO(0.3), "simpo": SimPO(0.3, 0.5), "kto": KTO(0.3)}
    return model, data, losses[name]


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo", "simpo", "kto", "reward"])
def test_losses_and_gradients_are_those_of_trl(name, folders, tmp_path):
    trainer, policy, batch = theirs(name, folders, tmp_path)
    loss = trainer.compute_loss(policy, batch)
    loss.backward()
    model, data, own = ours(name, folders)
    model.compile(keras.optimizers.SGD(1.0), own, micro_batches=2)
    before = [np.array(weight) for weight in model.weights]
    history = model.fit(data, verbose=0).history
    assert history["loss"][0] == pytest.approx(float(loss.detach()), abs=1e-5)
    check_step(model, before, policy, folders / "policy" / "tokenizer.json", tmp_path / "gradients")


@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_twenty_steps_are_those_of_trl(name, folders, tmp_path):
    trainer, policy, batch = theirs(name, folders, tmp_path)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = trainer.compute_loss(policy, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model, data, own = ours(name, folders)
    model.compile(kerasllm.optimizers.AdamW(1e-3, beta_2=0.99, weight_decay=0.0, global_clipnorm=None), own)
    history = model.fit(data, epochs=20, verbose=0).history
    np.testing.assert_allclose(history["loss"], losses, atol=1e-4)
    assert losses[-1] < 0.5 * losses[0]
