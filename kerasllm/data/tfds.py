"""Data sets of TensorFlow Datasets, by name or by the folder of a version, and the texts in their examples."""

import difflib
import functools
import operator
from pathlib import Path

from kerasllm.data.formats import decode
from kerasllm.data.records import TEXT_FIELD, known_as

PREFIX = "tfds:"


def is_version_folder(path):
    """Whether a folder is one version of a data set, as TensorFlow Datasets prepares it."""
    return (path / "dataset_info.json").is_file() and (path / "features.json").is_file()


def read_tfds(source, field, data_dir):
    """The texts of a data set; the arguments are those of `read_text`."""
    builder, examples = open_tfds(source, data_dir)
    column = _text_feature(builder, field)
    for number, example in enumerate(examples):
        yield text_of(example, column, f"Example {number} of {source}")


def open_tfds(source, data_dir, decoders=None):
    """Opens "tfds:NAME[/CONFIG][:SPLIT]" or "tfds:VERSION_FOLDER[:SPLIT]".

    Args:
        source, data_dir: as in `read_text`.
        decoders: function (features) -> dict of the decoders of some; None: its own.

    Returns:
        The builder, and an iterable of its examples in NumPy.
    """
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix(PREFIX).partition(":")
    if is_version_folder(Path(name).expanduser()):
        builder = tfds.builder_from_directory(Path(name).expanduser())
    elif name == "translate_folder":
        builder = _translate_folder(tfds, data_dir)
    else:
        builder = _builder(tfds, name, data_dir)
    try:
        decoding = decoders(builder.info.features) if decoders else None
        dataset = builder.as_dataset(split=split or "train", shuffle_files=False, decoders=decoding)
    except ValueError as error:
        splits = ", ".join(builder.info.splits)
        raise ValueError(f"{name} has no split {split or 'train'!r}: it has {splits}.") from error
    return builder, tfds.as_numpy(dataset)


def text_features(builder):
    """The names of the texts in a data set's features, plain strings too; "OUTER/INNER" for one inside another."""
    import tensorflow_datasets as tfds

    def names_in(features):
        for name, feature in features.items() if isinstance(features, tfds.features.FeaturesDict) else ():
            if isinstance(feature, tfds.features.FeaturesDict):
                yield from (f"{name}/{inner}" for inner in names_in(feature))
            elif isinstance(feature, tfds.features.Tensor) and feature.shape == () and feature.tf_dtype == "string":
                yield name

    names = list(names_in(builder.info.features))
    on_disk_only = isinstance(builder, tfds.core.read_only_builder.ReadOnlyBuilder)
    return sorted(names) if on_disk_only else names  # what is read from disk comes in another order each time


def text_of(example, name, place):
    """The text of that name, as `text_features` writes it, in an example; `place` is where it came from."""
    return decode(functools.reduce(operator.getitem, name.split("/"), example), place)[0]


def _text_feature(builder, field):
    texts = text_features(builder)
    if field is None:
        chosen = TEXT_FIELD if TEXT_FIELD in texts or len(texts) != 1 else texts[0]
    else:
        chosen = known_as(field, texts)
    if chosen not in texts:
        raise ValueError(f"{builder.name} has {len(texts)} text features, {texts}: name the one to read with field=.")
    return chosen


def _builder(tfds, name, data_dir):
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            builder = tfds.builder(f"{name}:*.*.*", data_dir=data_dir)  # whatever version there is on disk
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"TensorFlow Datasets has no {name!r}. {_what_there_is(tfds, name, data_dir)}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever a download can raise
        raise OSError(
            f"TensorFlow Datasets could not fetch {name!r}: {error}. Without a network, give the folder of a data set "
            "that was fetched before as data_dir."
        ) from error
    return builder


def _translate_folder(tfds, data_dir):
    if data_dir is None or not Path(data_dir).expanduser().is_dir():
        raise FileNotFoundError(
            f"tfds:translate_folder reads files named LANGUAGE.SPLIT.txt, and data_dir={data_dir} is no folder: give "
            "the one that holds them."
        )
    try:
        return tfds.TranslateFolder(str(data_dir))
    except ValueError as error:
        raise ValueError(
            f"{data_dir} must hold files named LANGUAGE.SPLIT.txt with equally many lines, and no others: {error}."
        ) from error


def _what_there_is(tfds, name, data_dir):
    base, known = name.partition("/")[0], set(tfds.list_builders())
    if base in known:
        return f"The configs of {base} are {sorted(tfds.builder_cls(base).builder_configs)}."
    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / base
    if folder.is_dir():
        return f"{folder} has {sorted(path.name for path in folder.iterdir() if path.name[0] != '.')}: name a config."
    near = difflib.get_close_matches(base, sorted(known), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "tfds.list_builders() lists the known ones."
