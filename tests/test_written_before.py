"""What earlier releases wrote is read, and gives the numbers and the texts that it gave then."""

from pathlib import Path

import keras
import numpy as np
import pytest
from record_written_before import HUGGING_FACE, MODELS, TEXT, answers, inputs_of

import kerasllm

FOLDER = Path(__file__).parent / "fixtures" / "written_before"


def same_as_then(name, model, tokenizer):
    with np.load(FOLDER / "answers.npz") as recorded:
        for what, value in answers(model, tokenizer).items():
            if what == "text":
                assert value == str(recorded[f"{name}/text"])
            else:  # Other processors add up in another order.
                np.testing.assert_allclose(value, recorded[f"{name}/{what}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_run_folders_and_keras_files(name):
    model, tokenizer = kerasllm.load(FOLDER / name / "run")
    same_as_then(name, model, tokenizer)
    loaded = keras.models.load_model(FOLDER / name / "model.keras")
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert loaded.config == model.config


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face_folders(name):
    then, tokenizer = kerasllm.load(FOLDER / name / "run")
    model, _ = kerasllm.load(FOLDER / name / "hf")
    ids = inputs_of(model, np.array([tokenizer.encode(TEXT)[:24]]))
    np.testing.assert_array_equal(model(ids), then(ids))


def test_layers_in_a_model_of_keras():
    _, tokenizer = kerasllm.load(FOLDER / "gpt" / "run")
    same_as_then("example", keras.models.load_model(FOLDER / "example" / "model.keras"), tokenizer)
