"""What a path holds that is no model of kerasllm's, and what reads it."""

from pathlib import Path

_RUN = "`kerasllm.load` reads run folders, which kerasllm train and kerasllm.save write, Hugging Face's format and GGUF"

# Of the files in a folder the first that is there says what the folder is.
_FOLDERS = {
    "saved_model.pb": "is a SavedModel, which tf.saved_model.load reads and model servers serve",
    "adapter_config.json": "is an adapter in PEFT's format without its model: merge the two first",
    "tokens.bin": "holds token files, which the data sets of kerasllm.data read",
    "training.json": "is a checkpoint of a model of your own, which kerasllm.callbacks.Checkpoint(...).restore reads",
    "*.gguf": "holds a model in the format GGUF, of llama.cpp: name the file itself",
    "*.keras": "holds a .keras file, which keras.models.load_model reads",
    "*.weights.h5": "holds weights of Keras, which model.load_weights reads",
    "*.index": "holds a checkpoint of TensorFlow, which tf.train.Checkpoint(...).restore reads",
    "metadata.json": "looks like a preset of KerasHub, which kerasllm.keras_hub.load reads",
    "*.safetensors": "holds weights without the config.json that says what model they are of",
    "*.bin": "holds weights of PyTorch without the config.json that says what model they are of",
    "tokenizer.json": "holds a tokenizer alone, which kerasllm.tokenizers.Tokenizer.load reads",
}
_FILES = {
    ".keras": "is a file of Keras, which keras.models.load_model reads, once kerasllm is imported",
    ".h5": "is a file of Keras, which model.load_weights or keras.models.load_model reads",
    ".safetensors": "is a file of weights: name the folder that it is in, with its config.json and tokenizer",
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt"), "is a file of PyTorch, which kerasllm does not read"),
    **dict.fromkeys((".zip", ".gz", ".tar", ".tgz"), "is an archive: unpack it, and name the folder"),
    **dict.fromkeys((".json", ".model", ".txt", ".yaml"), "is a file: name the folder that it is in"),
}
# Whose the models are that once had no owner in their names.
_OWNERS = {
    "gpt2": "openai-community",
    "bert-": "google-bert",
    "t5-": "google-t5",
    "roberta-": "FacebookAI",
    "xlm-roberta-": "FacebookAI",
    "distil": "distilbert",
    **dict.fromkeys(("mpnet-", "deberta-v3-"), "microsoft"),
}


def what_it_is(path):
    """One sentence, or two, about a path from which no model can be loaded; None for a folder that nothing is known of.

    Args:
        path: path, of something that is no run folder and not in Hugging Face's format.
    """
    path = Path(path)
    if not path.exists():
        return f"There is no run folder {path}; kerasllm train and kerasllm.save write one.{_hub_name(path)}"
    if path.is_file():
        kind = _FILES.get(path.suffix.lower(), "is a file, and no folder of a model")
        return f"{path} {kind}. {_RUN}."
    if (path / "run.json").is_file():
        return None  # kerasllm train is not done with it
    for pattern, kind in _FOLDERS.items():
        if next(path.glob(pattern), None):
            return f"{path} {kind}. {_RUN}."
    if models := _models_below(path):
        return f"{path} holds {len(models)} folders of models: load one of them, such as {models[-1]}."
    return None if any(path.iterdir()) else f"{path} is empty. {_RUN}."


def _hub_name(path):
    """What to add about a name that may be meant as one of the hub."""
    if len(path.parts) != 1 or path.suffix in _FILES:
        return ""
    owner = next((owner for start, owner in _OWNERS.items() if path.name.startswith(start)), None)
    example = f", such as {owner}/{path.name}" if owner else ""
    return f" Models of the Hugging Face hub are named owner/name{example}."


def _models_below(path):
    """The folders with a config.json, at most two levels down."""
    return [file.parent for pattern in ("*/config.json", "*/*/config.json") for file in sorted(path.glob(pattern))]
