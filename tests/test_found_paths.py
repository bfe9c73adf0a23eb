"""Paths as people have them: folders that are empty already, and what `load` finds in place of a run."""

import os

import pytest

import kerasllm
from kerasllm.cli.arguments import parse
from kerasllm.cli.train import merged_settings
from kerasllm.files import check_new_folder, new_folder
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def model_and_tokenizer():
    tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
    return CausalLM(TransformerConfig(tokenizer.vocab_size, 1, 8, 2, 16, max_length=16)), tokenizer


def test_an_empty_folder_is_taken_with_its_permissions(model_and_tokenizer, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o700)
    kerasllm.save(*model_and_tokenizer, folder)
    assert kerasllm.load(folder)[1].fingerprint() == model_and_tokenizer[1].fingerprint()
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError, match="mine exists, and is left as it is"):
        kerasllm.save(*model_and_tokenizer, folder)
    assert os.listdir(tmp_path) == ["mine"]


def test_an_empty_folder_stays_empty_where_writing_fails(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="no text"), new_folder(tmp_path / "mine") as draft:
        (draft / "part").write_text("part")
        raise ValueError("no text")
    assert os.listdir(tmp_path) == ["mine"] and os.listdir(tmp_path / "mine") == []


def test_what_is_no_empty_folder_is_not_touched(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "link", "."):
        with pytest.raises(FileExistsError, match="exists, and is left as it is"):
            check_new_folder(tmp_path / name)
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(FileExistsError, match="is the folder that you are in"):
        check_new_folder(".")
    assert merged_settings(parse(["train", "--data", "python_docs", "--out", "new"])).out == "new"
    os.mkdir("new")
    assert merged_settings(parse(["train", "--data", "python_docs", "--out", "new"])).out == "new"


def folder_of(*names):
    def make(path):
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("{}")
        return path

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (folder_of("saved_model.pb"), "is a SavedModel, which tf.saved_model.load reads"),
        (folder_of("adapter_config.json"), "is an adapter in PEFT's format without its model"),
        (folder_of("model.gguf"), "holds a model in the format GGUF, of llama.cpp: name the file itself"),
        (folder_of("my.keras"), "holds a .keras file, which keras.models.load_model reads"),
        (folder_of("model.safetensors", "tokenizer.json"), "holds weights without the config.json"),
        (folder_of("tokenizer.json"), "holds a tokenizer alone, which kerasllm.tokenizers.Tokenizer.load reads"),
        (folder_of("manifest.json", "tokens.bin"), "holds token files"),
        (folder_of("manifest.json", "model.safetensors", "training.json"), "is a checkpoint of a model of your own"),
        (folder_of("a/config.json", "b/config.json"), "holds 2 folders of models: load one of them, such as .*b"),
        (folder_of("snapshots/0af3/config.json"), "load one of them, such as .*0af3"),
        (folder_of("run.json", "tokenizer.json"), "is not a finished run folder: it has no manifest.json"),
        (folder_of("notes.md"), "is not a finished run folder"),
        (folder_of(), "is empty. `kerasllm.load` reads run folders"),
        (lambda path: folder_of("my.keras")(path) / "my.keras", "is a file of Keras, which keras.models.load_model"),
        (lambda path: folder_of("config.json")(path) / "config.json", "is a file: name the folder that it is in"),
        (lambda path: path / "nowhere", "There is no run folder .*nowhere; kerasllm train and kerasllm.save write one"),
    ],
)
def test_load_says_what_it_found_and_what_reads_it(make, message, tmp_path):
    with pytest.raises(FileNotFoundError, match=message):
        kerasllm.load(make(tmp_path))


@pytest.mark.parametrize(
    ("name", "full"),
    [("gpt2", "openai-community/gpt2"), ("bert-base-uncased", "google-bert/bert-base-uncased"), ("Qwen3-0.6B", None)],
)
def test_a_name_of_the_hub_without_its_owner_is_told_its_form(name, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = rf", such as {full}\." if full else r"\."
    with pytest.raises(FileNotFoundError, match=f"Models of the Hugging Face hub are named owner/name{example}"):
        kerasllm.load(name)
