"""Which precision is chosen on which device, and what is left of a model that was trained."""

import gc

import numpy as np
import pytest
import tensorflow as tf

from kerasllm import training
from kerasllm.backend import compiling
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.settings.general_settings import PRECISIONS


@pytest.mark.parametrize("flags", [{"avx2", "avx512_bf16"}, {"amx_bf16"}, {"avx512f"}, set()])
def test_bfloat16_is_chosen_where_a_processor_has_it(flags, monkeypatch):
    monkeypatch.setattr(compiling, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    policy, why = training.precision()
    assert policy == ("mixed_bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32") and "bfloat16" in why


def test_what_is_asked_for_is_taken_and_what_there_is_not_is_refused():
    assert training.precision("bfloat16") == ("bfloat16", "it was asked for")
    assert ("auto", *training.POLICIES) == PRECISIONS
    with pytest.raises(ValueError, match="no precision 'int3'; choose auto or one of float32, mixed_bfloat16"):
        training.precision("int3")


def test_jax_on_a_processor_stays_in_float32(run_python):
    out = run_python("from kerasllm import training; print(*training.precision())", backend="jax", hide=["tensorflow"])
    assert out.startswith("float32 this device multiplies no faster")


def test_of_a_model_that_was_trained_nothing_stays():
    def graphs():
        gc.collect()
        return sum(isinstance(thing, tf.__internal__.FuncGraph) for thing in gc.get_objects())

    def train(remat):
        model = CausalLM(TransformerConfig(9, 1, 8, 2, 8, max_length=8, remat=remat))
        model.compile("sgd")
        model.fit(np.ones((2, 4), "int32"), verbose=0)

    before = graphs()
    train(None)
    train("block")
    assert graphs() == before
