"""The notebooks: what is stored in them is whole, and they run, with small settings in place of their own."""

import ast
import importlib.util
import json
import random
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "01_the_documented_example.ipynb": {
        "seq_len": 16, "batch_size": 4, "epochs": 2, "embedding_dim": 8, "num_layers": 1, "d_model": 16, "num_heads": 2,
        "dff": 32, "new_tokens": 12,
    },
    "02_train_your_own_language_model.ipynb": {
        "vocab_size": 300, "seq_len": 32, "batch_size": 4, "passes": 2, "rounds": 2, "num_layers": 1, "d_model": 16,
        "num_heads": 2, "dff": 32, "warmup_steps": 2, "new_tokens": 12,
    },
    "03_export_and_serve.ipynb": {
        "vocab_size": 300, "seq_len": 96, "batch_size": 4, "passes": 1, "num_layers": 1, "d_model": 16, "num_heads": 2,
        "dff": 32, "warmup_steps": 2, "new_tokens": 12, "batch_sizes": [1], "clients": [2], "repeats": 1,
    },
    "04_masked_language_model.ipynb": {
        "vocab_size": 200, "seq_len": 32, "batch_size": 4, "steps": 4, "rounds": 2, "num_layers": 1, "d_model": 16,
        "num_heads": 2, "dff": 32, "precision": "float32", "warmup_steps": 1,
    },
    "05_translation.ipynb": {
        "target": None, "held_out_count": 10, "vocab_size": 300, "batch_tokens": 512, "passes": 2, "num_layers": 1,
        "d_model": 16, "num_heads": 2, "dff": 32, "precision": "float32", "warmup_steps": 2,
    },
    "06_hugging_face.ipynb": {
        "vocab_size": 300, "seq_len": 32, "batch_size": 4, "steps": 3, "new_steps": 4, "num_layers": 1, "d_model": 16,
        "num_heads": 2, "num_kv_heads": 1, "dff": 32, "new_tokens": 12,
    },
    "07_fine_tune_a_chat_model.ipynb": {
        "source": "chats.jsonl", "checkpoint": None, "held_out_count": 20, "seq_len": 96, "batch_size": 2, "steps": 4,
        "rounds": 2, "rank": 2, "tiny": {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 32},
        "tiny_vocab_size": 300, "tiny_steps": 3, "new_tokens": 8,
    },
    "08_classify_and_embed.ipynb": {
        "source": "labelled.csv", "test_source": "labelled.csv", "checkpoint": None, "max_length": 32, "batch_size": 8,
        "passes": 2, "small": {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 32}, "small_vocab_size": 300,
        "small_steps": 3, "colored": 2,
    },
    "09_preferences.ipynb": {
        "source": "pairs.jsonl", "english": "corpus.txt", "dialogues": None, "checkpoint": None, "held_out_count": 8,
        "seq_len": 160, "batch_size": 3, "passes": 1, "small_vocab_size": 300,
        "small": {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 32},
        "small_passes": 1, "new_tokens": 6,
    },
    "10_dialogue.ipynb": {
        "source": "chats.jsonl", "checkpoint": None, "training_count": 6, "held_out_count": 4, "sums_count": 4,
        "questions_count": 1, "seq_len": 160, "batch_size": 2, "rank": 2, "streets": "Mill Park", "new_streets": "Elm",
        "tiny": {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 32}, "tiny_vocab_size": 300, "tiny_steps": 3,
        "candidates": 2, "compared": 1, "new_tokens": 6,
    },
    "11_inside_a_language_model.ipynb": {
        "checkpoint": None, "seq_len": 48, "periods": (4, 12), "batch_size": 4, "steps": 4, "every": 2, "d_model": 16,
        "num_heads": 2,
    },
    "12_steering_and_constraints.ipynb": {
        "source": "corpus.txt", "test_source": "corpus.txt", "checkpoint": None, "vector_count": 4,
        "classifier_count": 8, "small": {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 32},
        "small_vocab_size": 300, "small_steps": 3, "seq_len": 32, "batch_size": 4, "strengths": [0.0, 1.0],
        "new_tokens": 6, "marked_tokens": 30, "texts_at_once": 2, "false_positive_rate": 0.2,
    },
    "15_images_and_text.ipynb": {
        "emoji": None, "queries": ["red circle"], "held_out_count": 8, "image_size": 24, "num_layers": 1, "d_model": 16,
        "num_heads": 2, "batch_size": 8, "contrast_steps": 4, "name_steps": 2, "projector_steps": 2, "all_steps": 4,
        "every": 2,
    },
}  # fmt: skip
MAKE_THEIR_DATA = ("11_inside_a_language_model.ipynb", "15_images_and_text.ipynb")
WORDS = "The class statement defines a class. A function is defined by def, and returns a new value to its caller."


def corpus():
    """Paragraphs of two columns, with a tab in between: text for some notebooks, and pairs for another."""
    draw = random.Random(0)
    texts = [WORDS, *(" ".join(draw.choices(WORDS.split(), k=12)) for _ in range(80))]
    return "\n\n".join(f"{text}\t{text.upper()}" for text in texts)


def sources():
    """What notebooks read, by the names of files."""
    text = corpus()
    pairs = [paragraph.split("\t") for paragraph in text.split("\n\n")]
    return {
        "corpus.txt": text,
        "chats.jsonl": "\n".join(json.dumps({"prompt": first, "completion": second}) for first, second in pairs),
        "pairs.jsonl": "\n".join(
            json.dumps({"prompt": first, "chosen": second[:40], "rejected": first[:40]}) for first, second in pairs
        ),
        "labelled.csv": "text,label\n" + "\n".join(f'"{first}",{first[0]}' for first, _ in pairs),
    }


# Each takes a process of its own. What the first one does is also run by test_documented_example.py.
BESIDE_TRANSFORMERS = "06_hugging_face.ipynb"


@pytest.fixture
def notebook(name):
    return nbformat.read(ROOT / "notebooks" / name, as_version=4)


def inject(notebook, settings):
    """Puts a cell with `settings` behind the cell tagged "parameters", which must set each of them."""
    (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assigned = [node.targets[0].id for node in ast.parse(notebook.cells[place].source).body]
    assert set(settings) <= set(assigned), "a setting that the notebook does not have"
    lines = [f"{setting} = {value!r}" for setting, value in settings.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.parity if name == BESIDE_TRANSFORMERS else pytest.mark.soak)
        for name in SMALL
    ],
)
def test_the_notebook_runs_and_leaves_no_files_where_it_stands(name, notebook, tmp_path, monkeypatch):
    if name == BESIDE_TRANSFORMERS and not importlib.util.find_spec("transformers"):
        pytest.skip("transformers is not installed: pip install kerasllm[parity]")
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    for folder in (work, temporary):
        folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # so that plots become outputs
    for file, text in sources().items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    settings = SMALL[name] if name in MAKE_THEIR_DATA else {"source": "corpus.txt", **SMALL[name]}
    paths = {key: str(tmp_path / settings[key]) for key in ("source", "test_source", "english") if key in settings}
    inject(notebook, {**settings, **paths})

    resources = {"metadata": {"path": str(work)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()

    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert not any("the same text: False" in output.get("text", "") for output in outputs(notebook))
    assert not list(work.iterdir())


@pytest.mark.parametrize("name", SMALL)
def test_what_is_stored_is_a_whole_run_from_top_to_bottom(name, notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    stored = outputs(notebook)
    assert any("image/png" in output.get("data", {}) for output in stored)
    assert not [output for output in stored if output.output_type == "error" or output.get("name") == "stderr"]
    file = ROOT / "notebooks" / name
    assert file.stat().st_size < 500_000


@pytest.mark.parametrize("name", SMALL)
def test_what_is_stored_names_no_place_on_a_machine(name, notebook):
    texts = [cell.source for cell in notebook.cells]
    for output in outputs(notebook):
        texts.append(output.get("text", ""))
        texts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    paths = re.compile(r"(?<![\w.:/<])(/(home|Users|root|tmp|work|usr|opt|var|mnt|private)\b|[A-Za-z]:\\)")
    assert not [found.group() for text in texts for found in paths.finditer(text)]
