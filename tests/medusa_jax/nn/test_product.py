"""Products and their gradients against numpy, and the types that they multiply."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from medusa_jax.nn.product import product

EQUATIONS = {
    "XD,FD->XF": ((5, 3), (4, 3)),
    "MXD,MFD->MXF": ((2, 5, 3), (2, 4, 3)),
    "BKTH,BKHS->BKTS": ((2, 3, 4, 5), (2, 3, 5, 6)),
}


def operands(equation, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = EQUATIONS[equation]
    grad = rng.normal(size=np.einsum(equation, *map(np.zeros, shapes)).shape)
    return *(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes), grad


@pytest.mark.parametrize("equation", EQUATIONS)
def test_value_and_gradients_are_einsums(equation):
    x, y, grad = operands(equation)
    value, gradients = jax.vjp(lambda x, y: product(equation, x, y, jnp.float32), x, y)
    np.testing.assert_allclose(value, np.einsum(equation, x, y), rtol=1e-5, atol=1e-5)
    # The sum of a product with what is given is linear in each operand: ask for one at a time.
    for i, found in enumerate(gradients(jnp.asarray(grad, jnp.float32))):
        for place in np.ndindex(found.shape):
            one = [np.asarray(x), np.asarray(y)]
            one[i] = np.zeros(found.shape)
            one[i][place] = 1.0
            wanted = (np.einsum(equation, *one) * grad).sum()
            np.testing.assert_allclose(found[place], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_every_product_runs_in_bfloat16(equation):
    """Small ones take other ways through XLA's CPU backend than those of a real model."""
    axes = dict(zip("XDFMBKTHS", (128, 64, 96, 3, 2, 3, 64, 16, 48), strict=True))
    left, right = equation.split("->")[0].split(",")
    x, y = (jnp.ones([axes[letter] for letter in term], jnp.bfloat16) for term in (left, right))

    def loss(x, y):
        return product(equation, x, y, jnp.bfloat16).sum()

    shared = next(axes[c] for c in left if c not in equation.split("->")[1])
    gradients = jax.jit(jax.grad(loss, (0, 1)))(x, y)
    for grad, one in zip(gradients, (x, y), strict=True):
        assert grad.shape == one.shape
        assert float(grad.min()) == float(grad.max()) > 0
    assert float(jax.jit(loss)(x, y)) == shared * product(equation, x, y, jnp.bfloat16).size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64, 65])
@pytest.mark.parametrize(("equation", "leading"), [("XD,FD->XF", ()), ("MXD,MFD->MXF", (3,))])
@pytest.mark.parametrize("columns", [6, 7])
def test_small_integers_are_multiplied_exactly(equation, leading, rows, columns, dtype):
    """Whatever form a CPU multiplies this number of rows in."""
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, (*leading, rows, 24)).astype(np.float32)
    y = rng.integers(-8, 9, (*leading, columns, 24)).astype(np.float32)
    found = jax.jit(lambda x, y: product(equation, x, y, jnp.dtype(dtype)))(x, y)
    np.testing.assert_array_equal(found, np.einsum(equation, x, y))


@pytest.mark.parametrize(("dtype", "rows"), [("float32", 2), ("float32", 64), ("bfloat16", 16)])
def test_a_cpu_reads_the_weight_of_few_rows_as_it_lies(dtype, rows):
    """On the left of the compiled product, and nowhere copied."""
    x, y = jnp.ones((rows, 96), dtype), jnp.ones((640, 96), dtype)
    multiply = jax.jit(lambda x, y: product("XD,FD->XF", x, y, x.dtype))
    text = multiply.lower(x, y).compile().as_text()
    (line,) = [line for line in text.splitlines() if " dot(" in line]
    assert f"= f32[640,{rows}]" in line
    assert not [line for line in text.splitlines() if "[96,640]" in line]


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_multiply_few_rows_as_any(platform):
    """Lowered in a process whose backend is a CPU, as ahead-of-time compilation does."""
    traced = jax.jit(lambda x, y: product("XD,FD->XF", x, y, x.dtype)).trace(
        jnp.ones((2, 96)), jnp.ones((640, 96))
    )
    assert "transpose" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "transpose" not in traced.lower(lowering_platforms=(platform,)).as_text()


def products(jaxpr):
    """Types of the operands of every product in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(operand.aval.dtype) for operand in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def test_bfloat16_is_multiplied_backwards_too():
    x, y, _ = operands("XD,FD->XF", jnp.float32)

    def loss(x, y):
        return (product("XD,FD->XF", x, y, jnp.bfloat16) ** 2).sum()

    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, y)
    found = list(products(program.jaxpr))
    assert found == [("bfloat16", "bfloat16")] * 3
    gradients = jax.grad(loss, (0, 1))(x, y)
    wanted = jax.grad(lambda x, y: ((x @ y.T) ** 2).sum(), (0, 1))(x, y)
    for got, exact in zip(gradients, wanted, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, exact, rtol=0.05, atol=0.05)
