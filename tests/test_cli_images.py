"""`kerasllm train --task caption` and `contrast`: images with texts in, run folders out that read images themselves."""

import json
import os
import signal

import numpy as np
import pytest
from image_files import encoded

import kerasllm
from kerasllm.cli import main
from kerasllm.images import ImageProcessor, ImageTokens
from kerasllm.models import CausalLM, ContrastiveModel, TransformerConfig, VisionLanguageModel
from kerasllm.models.weights import weight_names
from kerasllm.settings.reading import read_fields
from kerasllm.tasks.contrasting import _components
from kerasllm.tokenizers import Tokenizer, with_image_token
from kerasllm.vision import VisionConfig

pytestmark = pytest.mark.usefixtures("few_rounds")
COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "white": (255, 255, 255)}
SMALL = ["--layers", "1", "--d-model", "32", "--heads", "2", "--tokenizer", "char", "--precision", "float32"]
SEEN = ["--set", "model.vision.image_size=8", "--set", "model.vision.patch_size=4"]
EYES = VisionConfig(8, 4, num_layers=1, d_model=16, num_heads=2, dff=24)
PROCESSOR = ImageProcessor(8, tokens=ImageTokens(4))
CHATML = "{% for m in messages %}{{ m.role[0] + ':' + m.content + eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Squares of a colour, two captions of each, and a language model that has seen none."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    records = []
    for number in range(40):
        name = list(COLOURS)[number % 4]
        pixels = np.clip(draw.normal(COLOURS[name], 8, (8, 8, 3)), 0, 255).astype("uint8")
        (folder / f"{number}.png").write_bytes(encoded(pixels))
        records.append({"file_name": f"{number}.png", "captions": [f"it is {name}", f"{name}"]})
    (folder / "names.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tokenizer = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz :<>?"], kind="char", progress=False)
    tokenizer.chat_template = CHATML
    config = TransformerConfig(tokenizer.vocab_size, num_layers=1, d_model=32, num_heads=2, dff=32, max_length=48)
    kerasllm.save(CausalLM(config), tokenizer, folder / "language")
    return folder


def train(folder, task, out, *more):
    return main(["train", "--task", task, "--data", str(folder / "names.jsonl"), "--out", str(out), *more])


def results_of(run):
    return json.loads((run / "run.json").read_text())["results"]


def shown(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.soak
def test_a_model_learns_to_match_another_takes_its_encoder_and_writes(folder, tmp_path, capsys):
    both, run = tmp_path / "both", tmp_path / "run"
    vision = [*SMALL, *SEEN, "--set", "model.loss_kind=sigmoid", "--lr", "0.01", "--batch-size", "16"]
    assert train(folder, "contrast", both, *vision, "--steps", "60") == 0
    assert results_of(both)["text_to_image_recall_at_1"] == 1 and results_of(both)["texts"] <= 8
    assert json.loads((both / "config.json").read_text())["options"]["loss_kind"] == "sigmoid"

    written = [*SMALL, "--encoder", str(both), "--set", "model.projector.kind=average", "--lr", "0.01"]
    stage = ["--steps", "60", "--train", "language", "--batch-size", "8"]
    assert train(folder, "caption", run, *written, *stage) == 0
    found = results_of(run)
    assert found["loss"] + 0.2 < found["loss_of_other_images"] and found["images"] == found["written_of"] == 4
    assert found["exact_match"] == 1 and found["bleu"] is None
    learned, taken = (weight_names(kerasllm.load(path)[0]) for path in (run, both))
    for name in (name for name in learned if name.startswith("vision/")):
        np.testing.assert_array_equal(learned[name], taken[name])  # which stays as it is in this stage

    capsys.readouterr()
    assert main(["caption", "--model", str(run), str(folder / "2.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] in ("it is blue", "blue")
    for model, expected in ((run, "exact_match"), (both, "image_to_text_recall_at_5")):
        assert main(["evaluate", "--model", str(model), "--data", str(folder / "names.jsonl"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[expected] > 0.7
        assert main(["inspect", str(model)]) == 0 and "all as they were saved" in shown(capsys)
        assert main(["export", str(model), str(tmp_path / "exported")]) == 2
    assert main(["runs", str(tmp_path)]) == 0
    table = shown(capsys)
    assert "caption" in table and "contrast" in table


@pytest.mark.soak
def test_a_run_goes_on_to_the_bit(folder, tmp_path, monkeypatch, capsys):
    flags = [*SMALL, *SEEN, "--steps", "12", "--batch-size", "8", "--dropout", "0.1"]
    assert train(folder, "caption", tmp_path / "whole", *flags) == 0
    left = iter(range(8))

    def count(*_, **__):
        if next(left, None) == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("kerasllm.callbacks.StopAfter.on_train_batch_begin", count)
    with pytest.raises(SystemExit):
        train(folder, "caption", tmp_path / "run", *flags)
    monkeypatch.undo()
    (step,) = (tmp_path / "run" / "checkpoints").glob("step-*7")
    assert kerasllm.load(step)[0].image_processor == kerasllm.load(tmp_path / "whole")[0].image_processor
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    whole, run = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run"))
    assert whole == run and "Going on after step 7, with 5 to go" in shown(capsys)


@pytest.mark.soak
@pytest.mark.parametrize("quantize", [[], ["--quantize", "int8"]])
def test_a_chat_model_gets_eyes_by_stages_and_adapters(quantize, folder, tmp_path, capsys):
    records = [json.loads(line) for line in (folder / "names.jsonl").read_text().splitlines()]
    asked = [{"file_name": r["file_name"], "prompt": "which <image>?", "completion": r["captions"][1]} for r in records]
    (folder / "asked.jsonl").write_text("".join(json.dumps(record) + "\n" for record in asked))
    first, second = tmp_path / "first", tmp_path / "second"
    data = ["--data", str(folder / "asked.jsonl"), "--precision", "float32", "--batch-size", "8"]
    begin = ["--from", str(folder / "language"), *SEEN, "--set", "model.vision.d_model=16"]
    begin += ["--set", "model.vision.num_heads=2", "--set", "model.projector.kind=average", "--train", "projector"]
    assert main(["train", "--task", "caption", *data, *begin, "--steps", "4", "--out", str(first)]) == 0
    before, after = (weight_names(kerasllm.load(path)[0]) for path in (folder / "language", first))
    np.testing.assert_array_equal(
        after["transformer/block_0/attention/output/kernel"], before["transformer/block_0/attention/output/kernel"]
    )
    model, tokenizer = kerasllm.load(first)
    ids = kerasllm.data.image_prompt(tokenizer, model.image_processor, folder / "0.png", "which <image>?")["token_ids"]
    assert tokenizer.decode(ids, skip_special=False).count("<image>") == 2  # what a user writes is text

    adapted = ["--from", str(first), "--adapter", "lora", "--rank", "4", "--steps", "6", *quantize]
    assert main(["train", "--task", "caption", *data, *adapted, "--out", str(second)]) == 0
    model, _ = kerasllm.load(second)
    trained = {name for name, weight in weight_names(model).items() if weight.trainable}
    assert any(name.startswith("projector/") for name in trained)
    assert any("/adapters/" in name for name in trained) and not any(name.startswith("vision/") for name in trained)
    assert main(["merge", str(second), str(tmp_path / "merged")]) == 0
    merged, _ = kerasllm.load(tmp_path / "merged")
    assert merged.image_processor == model.image_processor
    inputs = kerasllm.data.image_prompt(tokenizer, model.image_processor, folder / "0.png")
    inputs["token_ids"] = np.array([inputs["token_ids"]])
    if not quantize:
        np.testing.assert_allclose(merged(inputs), model(inputs), atol=1e-4)


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("caption", ["--micro-batches", "2"], "micro_batches does nothing for the task caption"),
        ("contrast", ["--train", "all"], "train does nothing for the task contrast"),
        ("causal", ["--encoder", "x"], "encoder does nothing for the task causal"),
        (
            "caption",
            ["--set", "model.vision=5"],
            "model.vision takes a mapping, such as model.vision.image_size=…, not 5",
        ),
        ("caption", ["--set", "model.vision.width=5"], "Unknown VisionConfig field width"),
        ("caption", ["--context", "32"], "has no place for a text behind the 64 tokens of an image"),
        ("caption", ["--adapter", "lora"], "adapter does nothing without base"),
        ("caption", ["--data", "none.jsonl"], "There is no none.jsonl"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(task, flags, message, folder, tmp_path, capsys):
    assert train(folder, task, tmp_path / "run", *flags) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "run").exists()


def test_fields_within_fields_are_set_one_by_one():
    texts = ["model.vision={image_size: 8, dff: 9}", "model.vision.image_size=16", "model.num_kv_heads=2"]
    assert read_fields(texts) == {"vision": {"image_size": 16, "dff": 9}, "num_kv_heads": 2}


def test_what_belongs_together_has_one_number():
    said = [("a.png", "red"), ("a.png", "a square"), ("b.png", "red"), ("c.png", "blue")]
    numbers = _components([{"images": [image], "text": text} for image, text in said])
    keys = [(("a.png", 0),), (("b.png", 0),), (("c.png", 0),)]
    assert numbers[keys[0]] == numbers[keys[1]] == numbers["a square"] == numbers["red"] != numbers["blue"]
    assert numbers[keys[2]] == numbers["blue"]


def test_a_language_model_that_sees_keeps_what_it_has_learned(folder, tmp_path):
    language, tokenizer = kerasllm.load(folder / "language")
    seeing = with_image_token(tokenizer)
    (image_id,) = seeing.encode("<image>", parse_special=True)
    assert image_id == tokenizer.vocab_size
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<image>?"}]}]
    ids = seeing.encode_chat(question)
    assert ids.count(image_id) == 1 and seeing.decode(ids).startswith("u:<image>?")
    assert seeing.encode_chat([{"role": "user", "content": "so"}]) == tokenizer.encode_chat(
        [{"role": "user", "content": "so"}]
    )

    other = ContrastiveModel(language.config, EYES, 8)
    grown = kerasllm.models.with_new_tokens(language, [image_id])
    model = VisionLanguageModel.from_model(grown, other, {"kind": "average"}, image_id)
    text = np.array([[5, 6, 7]])
    np.testing.assert_allclose(model(text)[..., :image_id], language(text), atol=1e-6)
    pixels = PROCESSOR([folder / "0.png"])
    np.testing.assert_allclose(model.vision_encoder(pixels), other.vision_encoder(pixels), atol=1e-6)

    model.image_processor = ImageProcessor(8, mean=0.4, tokens=ImageTokens(1))
    kerasllm.adapters.add(model, 2, layers=["/transformer/*"], train_also="projector/*")
    assert not any("adapters" in name for name in weight_names(model) if name.startswith("vision/"))
    kerasllm.save(model, seeing, tmp_path / "run")
    loaded, _ = kerasllm.load(tmp_path / "run")
    assert loaded.image_processor == model.image_processor
    inputs = {"token_ids": np.array([[image_id, 5]]), "pixel_values": pixels}
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    (tmp_path / "run" / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        kerasllm.load(tmp_path / "run")
