"""Images with texts, as data sets have them: JSON lines, WebDataset's shards, Parquet and TensorFlow Datasets.

An example is a dict: {"images": [...], "text": str}, with a "prompt" (str) where something is asked; or {"images":
[...], "messages": [...]}, a chat of which each {"type": "image"} is the next image.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kerasllm.data.chats import ANSWER, chat_of
from kerasllm.data.formats import JSON_LINES, KINDS, PARQUET, kind_of
from kerasllm.data.image_files import IMAGE_ENDS, Spool, tar_samples, text_of_part
from kerasllm.data.records import known_as, leaf_names, read_records, value_at
from kerasllm.data.sources import path_of
from kerasllm.data.tfds import PREFIX, open_tfds, text_features, text_of

IMAGE_FIELDS = "images", "image", "file_name", "file", "image_path"
TEXT_FIELDS = "text", "caption", "captions", "name"
_CHAT_FIELDS = "messages", "conversations", "conversation"
_PAIRS = ("prompt", "completion"), ("question", "answer"), ("question", "answers"), ("prefix", "suffix")
_WRITTEN = "<image>"  # what LLaVA's files have in a text in the place of an image


def read_image_texts(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    image_folder: str | os.PathLike | None = None,
    image_field: str | None = None,
    text_field: str | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Iterator[dict[str, Any]]:
    """Reads images with what is said of them, one example after the other.

    What is said is one of these, which the names of fields tell:

    - a text: "text", "caption" or "name". Of several captions comes an example each.
    - a question and its answer: "question" and "answer", "prompt" and "completion", "prefix" and "suffix".
    - a chat under "messages" or "conversations", as in `read_chats`. Images are parts {"type": "image"} of a content,
      or stand as "<image>" in a user's text, as in LLaVA's files; else they stand before the first question.

    Images are "image" or "images", "file" or "file_name". Files of them are not opened yet.

    Args:
        source: one of these, or a list of them:

            - a .jsonl or .json file, or a folder that has one: its records name files of images.
            - a .tar file of WebDataset's, or a glob of such: members of one name belong together, "7.jpg" and "7.txt",
              or "7.json" for a record. Nothing is unpacked.
            - a .parquet file: images are bytes, or {"bytes", "path"} as Hugging Face writes them (with
              `pip install pyarrow`). They are copied to a temporary file.
            - "tfds:NAME[:SPLIT]": a data set of TensorFlow Datasets; copied as well.
        image_folder: where the files are that JSON names, by default the folder of the file. Those outside are refused.
        image_field, text_field: str, the fields of images and of texts, where they have other names.
        data_dir: the folder of TensorFlow Datasets.

    Returns:
        An iterator of dicts, as `image_text_dataset` takes them.

    Raises:
        FileNotFoundError: where a source does not exist.
        ValueError: for a file that is damaged or of another kind, a record that has no image or no text, and a path out
            of the folder; with its place.

    Example:

    >>> from pathlib import Path
    >>> _ = Path("pictures.jsonl").write_text('{"file_name": "cat.png", "text": "a cat"}')
    >>> next(read_image_texts("pictures.jsonl"))["text"]
    'a cat'
    """
    fields = image_field, text_field
    sources = source if isinstance(source, list | tuple) else [source]
    return itertools.chain.from_iterable(_read(one, image_folder, fields, data_dir) for one in sources)


def _read(source, image_folder, fields, data_dir):
    if str(source).startswith(PREFIX):
        return _read_tfds(str(source), fields, data_dir)
    readers = []
    for path in _files(source):
        if path.suffix.lower() == ".tar":
            readers.append(_read_shard(path, fields))
        elif kind_of(path) == PARQUET:
            readers.append(_read_parquet(path, fields))
        else:
            readers.append(_read_json(path, Path(image_folder or path.parent), fields))
    return itertools.chain.from_iterable(readers)


def _files(source):
    path = path_of(source)
    if path.is_dir():
        wanted = {".jsonl", ".ndjson", ".tar", ".parquet"}
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in wanted and file.name[0] != ".")
        if len({file.suffix.lower() for file in files}) != 1 or (len(files) > 1 and files[0].suffix == ".jsonl"):
            names = ", ".join(file.name for file in files[:5]) or "none"
            raise ValueError(
                f"The folder {path} should have one .jsonl file that names its images, or .tar or .parquet files, and "
                f"has {names}: name the file."
            )
        return files
    files = [path] if path.is_file() else sorted(file for file in path.parent.glob(path.name) if file.is_file())
    if not files:
        raise FileNotFoundError(f"There is no {source}: give a .jsonl, .tar or .parquet file, a folder or tfds:NAME.")
    for file in files:
        if file.suffix.lower() != ".tar" and file.suffix.lower() not in {*KINDS} - {".txt", ".md", ".csv", ".tsv"}:
            raise ValueError(f"{file} is no .jsonl, .json, .tar or .parquet file, which say what is on images.")
    return files


def _read_json(path, folder, fields):
    for place, record in read_records(path, kind_of(path) if kind_of(path) in KINDS.values() else JSON_LINES):
        images = [_file_in(folder, name, place) for name in _images_in(record, fields[0], place)]
        yield from _examples(record, images, fields[1], place)


def _file_in(folder, name, place):
    """The path of an image that a record names."""
    if not isinstance(name, str) or "\0" in name:
        raise ValueError(f"{place} should name the file of an image, and has {name!r:.80}.")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{place} names {name!r:.80}, which is not in {folder}: give image_folder= if it is to be read."
        )
    return path


def _read_shard(path, fields):
    for name, parts in tar_samples(path):
        place = f"The sample {name!r:.100} of {path}"
        images = [part for end, part in parts.items() if f".{end.rpartition('.')[2]}" in IMAGE_ENDS]
        record = json_of(parts["json"]) if "json" in parts else {}
        for end in ("txt", "text", "caption"):
            if end in parts:
                record["text"] = text_of_part(parts[end]).strip()
        if not images:
            raise ValueError(f"{place} has no image: it has {', '.join(parts)}.")
        yield from _examples(record, images, fields[1], place)


def json_of(part):
    """The object in a member that is JSON."""
    try:
        record = json.loads(text_of_part(part))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{part.name} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{part.name} is no JSON object.")
    return record


def _read_parquet(path, fields):
    spool = Spool()
    names = [*IMAGE_FIELDS, *TEXT_FIELDS, *_CHAT_FIELDS, *itertools.chain(*_PAIRS), *filter(None, fields)]
    for place, record in read_records(path, PARQUET, names):
        images = [_spooled(value, spool, place) for value in _images_in(record, fields[0], place)]
        yield from _examples(record, images, fields[1], place)


def _spooled(value, spool, place):
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise ValueError(f"{place} has no bytes of an image: it has {str(value)[:60]!r}.")
    return spool.add(data, place)


def _read_tfds(source, fields, data_dir):
    import tensorflow_datasets as tfds

    def skip(features):
        is_image = {name: isinstance(feature, tfds.features.Image) for name, feature in features.items()}
        return {name: tfds.decode.SkipDecoding() for name, found in is_image.items() if found}

    builder, examples = open_tfds(source, data_dir, skip)
    features = dict(builder.info.features.items())
    images, texts = list(skip(features)), text_features(builder)
    if not images:
        raise ValueError(f"{source} has no images: its features are {', '.join(features)}.")
    label = features.get("label") if not texts else None  # of images for classification, whose names are texts
    spool = Spool()
    for number, example in enumerate(examples):
        place = f"Example {number} of {source}"
        record = {name: text_of(example, name, place) for name in texts}
        if isinstance(label, tfds.features.ClassLabel):
            record["text"] = label.int2str(int(example["label"]))
        parts = [spool.add(example[name], place) for name in ([fields[0]] if fields[0] else images)]
        yield from _examples(record, parts, fields[1], place)


# Records as examples


def _images_in(record, field, place):
    if not isinstance(record, dict):
        raise ValueError(f"{place} is no record of an image and a text: it is {record!r:.80}.")
    if field is not None:
        value = value_at(record, known_as(field, leaf_names([record])), place)
    else:
        value = next((record[name] for name in IMAGE_FIELDS if record.get(name)), None)
    if not value:
        raise ValueError(f"{place} has no image: it has {', '.join(record)}. Name the field with image_field=.")
    return value if isinstance(value, list) else [value]


def _examples(record, images, field, place):
    """The examples of a record: one, or one for each of its captions."""
    if field is None and any(record.get(name) for name in _CHAT_FIELDS):
        chat = chat_of({name: record[name] for name in _CHAT_FIELDS if record.get(name)}, place)
        yield {"images": images, "messages": with_image_parts(chat, len(images), place)}
        return
    if field is None:
        for asked, answered in _PAIRS:
            if isinstance(record.get(asked), str) and record.get(answered):
                texts = _texts(record[answered])[:1]
                yield {"images": images, "prompt": record[asked], "text": _said(texts, answered, place)}
                return
    name = field or next((name for name in TEXT_FIELDS if record.get(name)), None)
    value = value_at(record, known_as(name, leaf_names([record])), place) if name else None
    texts = _texts(value)
    _said(texts, name, place)
    for text in texts:
        yield {"images": images, "text": text}


def _texts(value):
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []


def _said(texts, name, place):
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"{place} says nothing of its image{f' in {name!r}' if name else ''}: name the text with text_field=."
        )
    return texts[0]


def with_image_parts(messages, count, place):
    """Messages of which `count` parts are images.

    Args:
        messages: list of {"role", "content"}.
        count: int.
        place: str, what errors call them.

    Raises:
        ValueError: where they have another number of images.

    Example:

    >>> with_image_parts([{"role": "user", "content": "<image>What?"}], 1, "this")[0]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'What?'}]
    """
    messages = [_split(message) for message in messages]
    if not any(map(_num_images, messages)):
        first = next(i for i, message in enumerate(messages) if message["role"] != "system")
        parts = messages[first]["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        messages[first] = {**messages[first], "content": [{"type": "image"}] * count + parts}
    found = sum(map(_num_images, messages))
    if found != count:
        raise ValueError(f"{place} has {count} images, and its messages name {found}.")
    return messages


def _num_images(message):
    content = message.get("content")
    return (
        sum(part.get("type") == "image" for part in content if isinstance(part, dict))
        if isinstance(content, list)
        else 0
    )


def _split(message):
    """A user's message whose text names images, in parts."""
    content = message.get("content")
    if message["role"] == ANSWER or not isinstance(content, str) or _WRITTEN not in content:
        return message
    parts = []
    for number, text in enumerate(content.split(_WRITTEN)):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text.strip("\n")}] if text.strip() else []
    return {**message, "content": parts}
