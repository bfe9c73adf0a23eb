"""Images with texts: files of data sets, and batches of them."""

import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from image_files import encoded, noise

from kerasllm import data
from kerasllm.images import ImageProcessor, ImageTokens, Tiling, read_image
from kerasllm.tokenizers import Tokenizer

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


def flat(colour, height=9, width=9):
    return np.full((height, width, 3), colour, "uint8")


@pytest.fixture(scope="module")
def tokenizer():
    letters = "abcdefghijklmnopqrstuvwxyz?:! <>_1234567890\n"
    tokens = ["<image>", "<fake_token_around_image>", "<global-img>"]
    tokens += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = Tokenizer.train([letters], kind="char", special_tokens=tokens, progress=False)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def shard(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_sources_of_images_and_texts(tmp_path):
    red, blue = (encoded(flat(COLOURS[name])) for name in ("red", "blue"))
    folder = tmp_path / "folder"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(red)
    records = [
        {"file_name": "images/a.png", "text": "red"},
        {"image": "images/a.png", "question": "what?", "answer": "red"},
        {"image": ["images/a.png"] * 2, "captions": ["red", "a red one"]},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    found = list(data.read_image_texts(folder))
    assert [example["text"] for example in found] == ["red", "red", "red", "a red one"]
    assert found[1]["prompt"] == "what?" and len(found[2]["images"]) == 2
    assert found[0]["images"] == [folder / "images" / "a.png"]

    members = [("x/1.png", red), ("x/1.txt", b"red"), ("x/2.png", blue), ("x/2.json", b'{"caption": "blue"}')]
    path = shard(tmp_path / "shard-0.tar", *members)
    found = list(data.read_image_texts(tmp_path / "shard-*.tar"))
    assert [(example["images"][0].read(), example["text"]) for example in found] == [(red, "red"), (blue, "blue")]

    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": red, "path": "../../a.png"}, {"bytes": blue, "path": None}]
    parquet.write_table(pyarrow.table({"image": images, "caption": ["red", "blue"]}), tmp_path / "a.parquet")
    found = list(data.read_image_texts([tmp_path / "a.parquet", path]))
    assert [example["images"][0].read() for example in found] == [red, blue, red, blue]
    spooled = found[0]["images"][0].path
    assert spooled.exists()
    del found
    assert not spooled.exists()


def test_chats_name_their_images(tmp_path):
    chat = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "what?"}]}, {"role": "assistant", "content": "red"}]
    records = [{"image": "a.png", "conversations": chat}, {"images": ["a.png"], "messages": parts}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    for example in data.read_image_texts(tmp_path):
        assert example["messages"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "what?"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"images": ["a.png"] * 2, "conversations": chat}))
    with pytest.raises(ValueError, match="line 1 has 2 images, and its messages name 1"):
        list(data.read_image_texts(tmp_path))


def test_hostile_sources_are_refused(tmp_path):
    red = encoded(flat(COLOURS["red"]))
    for name in ("../../etc/passwd", "/etc/passwd", "a\0b"):
        (tmp_path / "a.jsonl").write_text(json.dumps({"image": name, "text": "secret"}))
        with pytest.raises(ValueError, match=r"line 1 (names .* which is not in|should name)"):
            list(data.read_image_texts(tmp_path / "a.jsonl"))
    path = shard(tmp_path / "a.tar", ("../../up.png", red), ("../../up.txt", b"red"), (".hidden", b""))
    (example,) = data.read_image_texts(path)  # a name in an archive is a name
    assert example["images"][0].read() == red and sorted(p.name for p in tmp_path.parent.glob("up*")) == []
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert list(data.read_image_texts(tmp_path / "link.tar")) == []
    (tmp_path / "cut.tar").write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cut short|no whole tar archive"):
        list(data.read_image_texts(tmp_path / "cut.tar"))
    (tmp_path / "cut.tar").write_bytes(b"nothing" * 200)
    with pytest.raises(ValueError, match="no whole tar archive"):
        list(data.read_image_texts(tmp_path / "cut.tar"))
    for members, message in (
        ([("a.txt", b"red")], "has no image: it has txt"),
        ([("a.png", red)], "says nothing of its image"),
        ([("a.png", red), ("a.json", b"[]")], "is no JSON object"),
        ([("a.png", red), ("a.txt", b"\xff")], "is not UTF-8"),
    ):
        with pytest.raises(ValueError, match=message):
            list(data.read_image_texts(shard(tmp_path / "b.tar", *members)))
    with pytest.raises(FileNotFoundError):
        list(data.read_image_texts(tmp_path / "none.jsonl"))


def test_batches_hold_each_image_beside_its_text(tokenizer, tmp_path):
    examples = [{"images": [flat(colour)], "text": name} for name, colour in COLOURS.items()]
    (tmp_path / "red.png").write_bytes(encoded(examples[0]["images"][0]))
    examples[0] = {"images": [tmp_path / "red.png"], "text": "red", "prompt": "what?"}
    processor = ImageProcessor(4, mean=0, std=1, tokens=ImageTokens(3))
    options = {"seq_len": 16, "batch_size": 2, "seed": 3, "epochs": 2}
    dataset = data.image_text_dataset(examples, tokenizer, processor, **options)
    image_id, seen = tokenizer.engine.token_to_id("<image>"), []
    assert dataset.element_spec[0]["pixel_values"].shape == (2, 4, 4, 3) and len(dataset) == 4
    batches = list(dataset)
    for step, (inputs, labels, weight) in enumerate(batches):
        assert ((inputs["token_ids"] == image_id).numpy().sum(1) == 3).all()
        texts = [tokenizer.decode(row[mask > 0]) for row, mask in zip(labels.numpy(), weight.numpy(), strict=True)]
        shown = [(255 * pixels[0, 0]).round().astype(int).tolist() for pixels in inputs["pixel_values"].numpy()]
        assert shown == [list(COLOURS[text]) for text in texts]
        assert dataset.documents_at(step) == sorted(list(COLOURS).index(text) for text in texts)
        learned = labels.numpy()[weight.numpy() > 0]
        assert (learned == tokenizer.end_id).sum() == 2
        seen += texts
    assert len(set(seen)) == 5 or len(seen) == 8
    again = data.image_text_dataset(examples, tokenizer, processor, **options, start_step=3)
    (last,) = again
    assert all((a == b).numpy().all() for a, b in zip(last[1:], batches[3][1:], strict=True))
    assert (last[0]["pixel_values"] == batches[3][0]["pixel_values"]).numpy().all()


def test_packed_rows_and_several_images(tokenizer):
    draw = np.random.default_rng(0)
    names = list(COLOURS)
    examples = []
    for _ in range(40):
        chosen = draw.choice(names, draw.integers(0, 4)).tolist()
        images = [flat(COLOURS[name]) for name in chosen]
        examples.append({"images": images, "prompt": "?", "text": " ".join(chosen) or "none"})
    processor = ImageProcessor(4, mean=0, std=1, tokens=ImageTokens(3))
    options = {"seq_len": 40, "batch_size": 3, "packed": True, "shuffle": False}
    count = 0
    for inputs, labels, weight in data.image_text_dataset(examples, tokenizer, processor, **options):
        shown = [tuple((255 * pixels[0, 0]).round().astype(int)) for pixels in inputs["pixel_values"].numpy()]
        shown = [next(name for name in names if COLOURS[name] == colour) for colour in shown]
        said = []
        for row, mask, documents in zip(labels.numpy(), weight.numpy(), inputs["document_ids"].numpy(), strict=True):
            for document in range(1, documents.max() + 1):
                said += tokenizer.decode(row[(documents == document) & (mask > 0)]).split()
                count += 1
        assert [word for word in said if word != "none"] == shown
    assert count == 40


def test_chats_and_tiles(tokenizer):
    processor = ImageProcessor(8, tiles=Tiling(16), tokens=ImageTokens(2, style="tiles"))
    question = [{"type": "image"}, {"type": "text", "text": "what? <image>"}]  # which is text
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "red"}]
    examples = [{"images": [encoded(noise(20, 20, 3))], "messages": chat}]
    inputs, labels, weight = next(iter(data.image_text_dataset(examples, tokenizer, processor, 100, 1)))
    assert inputs["pixel_values"].shape == (5, 8, 8, 3)
    ids = inputs["token_ids"].numpy()
    text = tokenizer.decode(ids[0][ids[0] != (tokenizer.pad_id or 0)], skip_special=False)
    assert text.startswith(f"u:{processor.image_text(2, 2)}what? <image><|endoftext|>a:")
    assert (ids == tokenizer.engine.token_to_id("<image>")).sum() == 10
    assert tokenizer.decode(labels.numpy()[weight.numpy() > 0], skip_special=False) == "red<|endoftext|>"


def test_what_cannot_be_learned_is_refused(tokenizer, tmp_path):
    processor = ImageProcessor(4, tokens=ImageTokens(3))
    example = {"images": [flat(COLOURS["red"])], "text": "red"}
    with pytest.raises(ValueError, match="does not know what stands for an image"):
        data.image_text_dataset([example], tokenizer, ImageProcessor(4), 8, 1)
    with pytest.raises(ValueError, match="has no token '<img>', which stands for images: train it with"):
        data.image_text_dataset([example], tokenizer, ImageProcessor(4, tokens=ImageTokens(3, "<img>")), 8, 1)
    with pytest.raises(ValueError, match="1 examples were given, and 1 of them are longer"):
        data.image_text_dataset([example], tokenizer, processor, 4, 1)
    with pytest.raises(TypeError, match=r'examples\[0\] should be a dict of "images" and a "text"'):
        data.image_text_dataset(["red"], tokenizer, processor, 8, 1)
    with pytest.raises(ValueError, match=r"examples\[0\]: there is no image file .*none"):
        data.image_text_dataset([{"images": [tmp_path / "none.png"], "text": "red"}], tokenizer, processor, 8, 1)
    with pytest.warns(UserWarning, match="1 of 2 examples are longer than seq_len=8 tokens and left out"):
        data.image_text_dataset([example, {**example, "text": "red" * 9}], tokenizer, processor, 8, 1)
    (tmp_path / "bad.png").write_bytes(encoded(flat(COLOURS["red"]))[:-20])
    dataset = data.image_text_dataset([{"images": [tmp_path / "bad.png"], "text": "red"}], tokenizer, processor, 8, 1)
    with pytest.raises(Exception, match=r"bad.png is a PNG file that is cut short"):
        next(iter(dataset))


def test_pairs_for_contrast(tokenizer):
    examples = [{"images": [flat(colour)], "text": name} for name, colour in COLOURS.items()]
    examples.append({"images": [flat((200, 0, 0))], "text": "red"})
    options = {"max_length": 8, "batch_size": 3, "seed": 1, "epochs": 2}
    processor = ImageProcessor(4, mean=0, std=1)
    dataset = data.image_pair_dataset(examples, tokenizer, processor, **options)
    batches = list(dataset)
    assert len(batches) == len(dataset) == 4
    for step, (inputs, labels) in enumerate(batches):
        ids, documents = inputs["token_ids"].numpy(), inputs["document_ids"].numpy()
        texts = [tokenizer.decode(row[row_is == 1]) for row, row_is in zip(ids, documents, strict=True)]
        assert texts == [[*COLOURS][label] for label in labels.numpy()]
        brightest = [np.argmax(COLOURS[text]) for text in texts]
        assert (inputs["pixel_values"].numpy()[:, 0, 0].argmax(1) == brightest).all()
        assert sorted(examples[i]["text"] for i in dataset.documents_at(step)) == sorted(texts)
    assert sorted(np.concatenate([dataset.documents_at(step) for step in (0, 1)])) == list(range(6))
    (last,) = data.image_pair_dataset(examples, tokenizer, processor, **options, start_step=3)
    assert (last[0]["pixel_values"] == batches[3][0]["pixel_values"]).numpy().all()
    with pytest.raises(ValueError, match="without tiles="):
        data.image_pair_dataset(examples, tokenizer, ImageProcessor(8, tiles=Tiling(16)))


@pytest.mark.soak
def test_data_sets_of_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    colours = np.stack([flat(colour) for colour in COLOURS.values()])
    content = {"image": colours, "caption": list(COLOURS), "label": np.arange(len(COLOURS)) % 2}
    features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
    features["label"] = tfds.features.ClassLabel(names=["even", "odd"])
    tfds.dataset_builders.store_as_tfds_dataset(
        "colours",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(content)},
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    found = list(data.read_image_texts(f"tfds:{tmp_path / 'colours' / '1.0.0'}"))
    assert [example["text"] for example in found] == list(COLOURS)
    for example, colour in zip(found, COLOURS.values(), strict=True):
        assert (read_image(example["images"][0].read()) == colour).all()


def test_prompts_are_what_examples_begin_with(tokenizer):
    red, processor = flat(COLOURS["red"], 9, 20), ImageProcessor(8, tokens=ImageTokens(3))
    image_id = tokenizer.encode("<image>", parse_special=True)
    asked = data.image_prompt(tokenizer, processor, [red, red], "what? <image>")
    assert tokenizer.decode(asked["token_ids"], skip_special=False).startswith("u:" + 6 * "<image>" + "what? <image>")
    assert asked["token_ids"].count(*image_id) == 6  # a user's "<image>" is text
    assert asked["pixel_values"].shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(asked["pixel_values"], processor([red, red]))
    example = {"images": [red], "prompt": "what?", "text": "red"}
    plain = Tokenizer.train(["what? red"], kind="char", special_tokens=["<image>"], progress=False)
    ids = data.image_prompt(plain, processor, red, "what?")["token_ids"]
    inputs, _, _ = next(iter(data.image_text_dataset([example], plain, processor, 16, 1)))
    assert inputs["token_ids"][0, : len(ids)].numpy().tolist() == ids and len(ids) == 3 + len("what?")


def test_what_is_asked_sees_itself_both_ways(tokenizer):
    """The spans of a prefix end where what is learned begins, in each of the texts of a row."""
    processor = ImageProcessor(8, tokens=ImageTokens(2))
    examples = [{"images": [flat((9, 9, 9))], "prompt": "ab", "text": "cde"}] * 2
    options = {"packed": True, "shuffle": False, "prefix": True}
    inputs, _, weight = next(iter(data.image_text_dataset(examples, tokenizer, processor, 20, 1, **options)))
    before = [1] * 4 + [0] * 3  # two tokens of the image, two letters; three letters, and an end that is a label alone
    assert inputs["span_ids"].numpy().tolist() == [before * 2 + [0] * 6]
    assert weight.numpy().tolist() == [([0] * 3 + [1] * 4) * 2 + [0] * 6]
    assert "span_ids" not in next(iter(data.image_text_dataset(examples, tokenizer, processor, 20, 1)))[0]
