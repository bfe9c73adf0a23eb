"""Training steps compiled for TPUs that are not there."""

import json

import pytest
from many_devices import on_eight_devices

FSDP, BOTH = {"fsdp": 4}, {"fsdp": 2, "tensor": 2}


@pytest.mark.scale
@pytest.mark.parametrize(
    "style, meshes, most",
    [("llama", [FSDP, BOTH], 1e8), ("gemma-2", [BOTH], 2e8), ("mixtral", [BOTH], 4.5e8)],
)
def test_a_step_is_compiled_for_tpus_that_are_not_there(style, meshes, most):
    pytest.importorskip("libtpu")
    for found in on_eight_devices("compiled", style, *map(json.dumps, meshes)):
        of_weights_and_optimizer = 3 * 4 * found["parameters"] / 4
        assert found["state_bytes"] == pytest.approx(of_weights_and_optimizer, rel=0.05)
        assert found["collectives"]["all-gather"] > 0 < found["flops"]
        # Of a device's own rows and heads, and no scores of whole rows: those would be 67 MB of each layer, and as much
        # for their gradient. Gemma's heads are twice as wide, and a mixture has each token twice.
        assert 0 < found["temporary_bytes"] < most, found
