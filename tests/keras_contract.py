"""What Keras expects of every layer, checked in one place: `check_layer` is called once for each public layer."""

import inspect
import json
from itertools import combinations

import keras
import numpy as np
from keras import ops
from oracles import scramble


def check_layer(layer_class, options, inputs, output_shape, folder):
    """Holds a layer to Keras' contract.

    Args:
        layer_class: a subclass of `keras.layers.Layer`.
        options: dict of constructor arguments.
        inputs: dict of call arguments, arrays. The first is float where the layer takes floats.
        output_shape: tuple.
        folder: a pathlib.Path for the saved model.
    """
    keras.utils.set_random_seed(1)
    layer = layer_class(**options)
    check_config(layer, options)
    output = layer(**inputs)
    assert output.shape == output_shape
    check_fresh_weights_differ(layer)
    check_symbolic_call(layer_class(**options), inputs, output)
    check_mixed_precision(layer, layer_class(**options, dtype="mixed_bfloat16"), inputs)
    check_training_and_saving(layer_class(**options), inputs, output, folder / "model.keras")


def check_config(layer, options):
    """The config is plain JSON, names every argument, and makes the same layer again."""
    config = layer.get_config()
    named = [
        parameter.name
        for parameter in inspect.signature(type(layer).__init__).parameters.values()
        if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]
    assert config.keys() >= {*named, *options}
    assert type(layer).from_config(json.loads(json.dumps(config))).get_config() == config
    for name, value in options.items():
        assert config[name] == value


def check_fresh_weights_differ(layer):
    """No initialiser is shared: equal kernels would stay equal in training wherever their inputs are alike."""
    drawn = [v for v in layer.weights if np.std(v) > 0]
    for one, other in combinations(drawn, 2):
        if one.shape == other.shape:
            assert not np.allclose(one, other), f"{one.path} and {other.path} begin with equal values"


def check_symbolic_call(layer, inputs, output):
    """What Keras infers about the output, before any numbers, is what comes out."""
    spec = layer(**{name: keras.KerasTensor(array.shape, array.dtype) for name, array in inputs.items()})
    assert (spec.shape, spec.dtype) == (tuple(output.shape), keras.backend.standardize_dtype(output.dtype))


def check_mixed_precision(layer, mixed, inputs):
    """Under mixed_bfloat16 weights stay float32, and the output is near and bfloat16, symbolically too."""
    output = scramble(layer)(**inputs)
    mixed_output = mixed(**inputs)
    mixed.set_weights(layer.get_weights())
    mixed_output = mixed(**inputs)
    assert keras.backend.standardize_dtype(mixed_output.dtype) == "bfloat16"
    assert all(v.dtype == "float32" for v in mixed.weights)
    difference = ops.cast(mixed_output, "float32") - output
    assert float(ops.std(difference)) < 0.05 * float(ops.std(output))
    check_symbolic_call(mixed, inputs, mixed_output)


def check_training_and_saving(layer, inputs, output, path):
    """In a Functional model of any batch size and length, `fit` changes every weight, and saving keeps the model."""
    symbolic = {}
    for name, array in inputs.items():
        width = array.shape[-1:] if array.dtype.kind == "f" else (None,)
        shape = [*[None] * (array.ndim - 1), *width]
        symbolic[name] = keras.Input(batch_shape=shape, dtype=array.dtype, name=name)
    model = keras.Model(symbolic, layer(**symbolic))
    scramble(layer)
    before = layer.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mean_squared_error", run_eagerly=True)
    target = np.random.default_rng(0).normal(size=output.shape)
    history = model.fit((batch for batch in [(inputs, target)]), steps_per_epoch=1, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for v, old in zip(layer.trainable_weights, before, strict=True):
        assert not np.array_equal(v, old), f"training never reaches {v.path}"
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert [v.path for v in loaded.weights] == [v.path for v in model.weights]
    assert loaded.get_layer(layer.name).get_config() == layer.get_config()
