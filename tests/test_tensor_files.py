"""Files of tensors in parts, as several processes write them: read as one, and by pieces."""

import keras
import numpy as np
import pytest

from kerasllm.tensor_files import Pieces, parts_of, read_tensors, stored_tensors, write_part, write_tensors

TABLE, STEP = np.arange(48, dtype="float32").reshape(6, 8), np.array(7, "int64")


@pytest.fixture
def in_parts(tmp_path):
    """Of three processes the first two have the upper and lower rows of a table, the second in halves."""
    path = tmp_path / "model.safetensors"
    of_processes = [
        {"a/table": Pieces((6, 8), [((0, 0), TABLE[:2])]), "step": Pieces((), [((), STEP)])},
        {"a/table": Pieces((6, 8), [((2, 0), TABLE[2:, :4]), ((2, 4), TABLE[2:, 4:])]), "step": Pieces((), [])},
        {"a/table": Pieces((6, 8), []), "step": Pieces((), [])},
    ]
    for number, pieces in enumerate(of_processes):
        write_part(path, pieces, number, 3)
    return path


@pytest.fixture
def variables():
    return {"a/table": keras.Variable(0 * TABLE), "step": keras.Variable(0, dtype="int64", trainable=False)}


def test_parts_are_read_as_one_file(in_parts, variables):
    assert [path.name[-31:] for path in parts_of(in_parts)] == [
        f"model.part-000{number}-of-0003.safetensors"[-31:] for number in (1, 2, 3)
    ]
    read_tensors(in_parts, variables)
    np.testing.assert_array_equal(variables["a/table"], TABLE)
    assert int(variables["step"]) == 7


@pytest.mark.parametrize("rows", [slice(None), slice(0, 2), slice(1, 5), slice(5, 6)])
@pytest.mark.parametrize("columns", [slice(None), slice(0, 4), slice(3, 6)])
def test_a_piece_is_read_alone(in_parts, variables, rows, columns):
    found = stored_tensors(in_parts, variables)["a/table"].read((rows, columns))
    np.testing.assert_array_equal(found, TABLE[rows, columns])


def test_a_part_that_is_gone_is_missed(in_parts, variables):
    parts_of(in_parts)[1].unlink()
    with pytest.raises(ValueError, match="do not hold all of 'a/table'"):
        read_tensors(in_parts, variables)
    assert not np.any(variables["a/table"])


def test_a_whole_file_comes_before_parts(in_parts, variables):
    write_tensors(in_parts, {"a/table": TABLE + 1, "step": STEP})
    read_tensors(in_parts, variables)
    np.testing.assert_array_equal(variables["a/table"], TABLE + 1)
