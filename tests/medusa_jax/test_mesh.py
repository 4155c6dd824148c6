"""Tests medusa_jax/mesh.py on 8 fake devices; texts of meshes: decoding/test_mesh.py."""

import jax
import pytest
from jax.sharding import AxisType

from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"data": 1, "fsdp": -1}, (1, 8, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"tensor": 4}, (2, 1, 4)),
        ({"data": 1}, (1, 1, 1)),
        ({"data": 1, "tensor": 4}, (1, 1, 4)),
    ],
)
def test_mesh(sizes, shape):
    mesh = make_mesh(**sizes)
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert len({device.id for device in mesh.devices.flat}) == mesh.size


def test_mesh_of_given_devices():
    assert make_mesh(fsdp=2, devices=jax.devices()[4:]).shape["data"] == 2


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": 16}, ("data=16 fsdp=1 tensor=1 needs 16 devices", "there are 8")),
        ({"data": 3}, ("needs 3 devices", "there are 8")),
        ({"fsdp": 3}, ("needs a multiple of 3 devices", "there are 8")),
        ({"fsdp": 16}, ("needs a multiple of 16 devices", "there are 8")),
        ({"data": -1, "tensor": -1}, ("only one", "-1")),
        ({"tensor": 0}, ("tensor=0", "positive")),
        ({"tensor": -2}, ("tensor=-2", "positive")),
    ],
)
def test_mesh_that_does_not_fit(sizes, words):
    with pytest.raises(UserError) as error:
        make_mesh(**sizes)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
