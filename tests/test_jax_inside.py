"""Looking inside, steering, watermarks and guidance on JAX, where TensorFlow is absent: the numbers of TensorFlow."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest

from kerasllm import interpret
from kerasllm.generation import Contrast, GreenList, SynthID, generate_ids
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.safety import detect
from kerasllm.tokenizers import Tokenizer


def everything(weights):
    """What is seen and written from the same weights. The second process runs this very text."""
    tokenizer = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz "], kind="char", progress=False)
    config = TransformerConfig(tokenizer.vocab_size, 2, 16, 2, 24, max_length=128, norm="rms", gated=True)
    model, small = CausalLM(config), CausalLM(dataclasses.replace(config, num_layers=1))
    for one in (model, small):
        one.set_weights([weights[i % len(weights)].reshape(-1)[: w.size].reshape(w.shape) for i, w in sized(one)])
    ids = np.array([tokenizer.encode("a text to read")])
    found = {}

    for method in ("integrated_gradients", "gradient_x_input", "occlusion"):
        explained = interpret.saliency(model, tokenizer, "some words", " said", method=method, contrast=" seen")
        found[method] = explained.values
    found["parts"] = np.concatenate(list(interpret.attribute_logit(model, ids, token=5).values()))
    lens = interpret.logit_lens(model, tokenizer, "some words")
    found["lens"] = lens.ids[..., 0]
    found["heads"] = interpret.head_scores(model, tokenizer, length=20).induction
    grid = interpret.patch(model, ids, ids[:, ::-1], lambda logits: logits[0, -1, 5], "heads")
    found["patched"] = grid.values

    def half(x):
        return x * 0.5

    with interpret.edit(model, {"block_0/feed_forward/output": half}):
        found["edited"] = np.array(generate_ids(model, [3, 4, 5], 12))
        found["predicted"] = model.predict(ids, verbose=0)
    vector = interpret.steering_vector(model, tokenizer, ["abc", "abcd ef"], ["xyz", "no more"])
    found["direction"] = vector.direction
    with interpret.steer(model, vector, 2.0):
        found["steered"] = np.array(generate_ids(model, [[3, 4, 5], [6]], 12))
    found["plain"] = np.array(generate_ids(model, [[3, 4, 5], [6]], 12))
    found["guided"] = np.array(generate_ids(model, [[3, 4, 5], [6]], 12, guidance=1.8, negative_prompt=[[7, 8], [9]]))
    found["contrasted"] = np.array(generate_ids(model, [[3, 4, 5], [6]], 12, contrast=Contrast(small, 1.0, 0.02)))
    if keras.backend.backend() == "torch":  # which has no unsigned integers to hash by
        return found
    marks = {
        "green": GreenList(bias=8.0, hashing_key=2**50 + 7),
        "own_green": GreenList(bias=8.0, seeding_scheme="selfhash", context_width=3),
        "tournament": SynthID((654, 400, 836, 2**40 + 5, 443, 597), ngram_len=3),
    }
    for name, watermark in marks.items():
        found[name] = np.array(generate_ids(model, [[3, 4, 5], [6]], 40, rules=[watermark]))
        options = {"temperature": 1.5, "seed": 1, "suppress_tokens": [0, 1, 2]}
        drawn = generate_ids(model, [3, 4, 5], 90, rules=[watermark], **options)
        told = detect([drawn, found["plain"][0].tolist()], tokenizer, watermark)
        assert told[0].is_watermarked and not told[1].is_watermarked, (name, told)
        found[f"{name}_told"] = np.array([each.z_score for each in detect(found[name].tolist(), tokenizer, watermark)])
    return found


def sized(model):
    return list(enumerate(np.array(weight) for weight in model.get_weights()))


SECOND_PROCESS = """
import dataclasses
import keras
import numpy as np
from kerasllm import interpret
from kerasllm.generation import Contrast, GreenList, SynthID, generate_ids
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.safety import detect
from kerasllm.tokenizers import Tokenizer

{functions}

with np.load({path!r}) as file:
    weights = [file["weights"]]
found = everything(weights)
np.savez({path!r}, **found)
"""


@pytest.mark.soak
def test_other_backends_see_and_write_the_same(run_python, tmp_path, other_backend):
    weights = 0.4 * np.random.default_rng(3).standard_normal(2**14).astype("float32")
    expected = everything([weights])
    path = str(tmp_path / "numbers.npz")
    np.savez(path, weights=weights)
    functions = "\n\n".join(map(inspect.getsource, (everything, sized)))
    run_python(SECOND_PROCESS.format(functions=functions, path=path), backend=other_backend, hide=["tensorflow"])
    with np.load(path) as found:
        without = ("green", "own_green", "tournament") if other_backend == "torch" else ()
        assert found.keys() == {name for name in expected if not name.startswith(without or "-")}
        for name in found:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=2e-4, err_msg=name)
    for name in ("edited", "steered", "guided", "contrasted", "green", "own_green", "tournament"):
        plain = expected["plain"] if name != "edited" else expected["plain"][0]
        assert not np.array_equal(expected[name][..., : plain.shape[-1]], plain), name
