"""Data sets in Hugging Face's format, from its hub or a folder, read as they are fetched by the package datasets."""

from pathlib import Path

from kerasllm.data.records import texts_of
from kerasllm.extras import optional

PREFIX = "hf:"


def read_hub(source, field, left_out):
    """The texts of "hf:DATASET[/CONFIG][:SPLIT]"; field and left_out are those of `records.read_texts`.

    Raises:
        ImportError: where datasets is not installed.
        ValueError: for a data set, config or split that there is not, or a field that is not there or not plain.
    """
    records = ((f"{source}, example {number}", record) for number, record in enumerate(_opened(source)))
    return texts_of(records, source, field, left_out)


def _opened(source):
    datasets = optional("datasets", "Data sets of Hugging Face are read")
    name, _, split = source.removeprefix(PREFIX).partition(":")
    config, folder = None, Path(name).expanduser()
    if folder.is_dir():
        name = str(folder)
    elif name.count("/") == 2:
        name, _, config = name.rpartition("/")
    try:
        return datasets.load_dataset(name, config, split=split or "train", streaming=True)
    except (ValueError, OSError, RuntimeError) as error:  # what datasets and huggingface_hub raise
        raise ValueError(
            f"{source} cannot be read: {error} A data set is hf:OWNER/NAME, with /CONFIG and :SPLIT behind it where it "
            "has several, or hf: and a folder."
        ) from error
