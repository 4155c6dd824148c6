"""Operations of kernels that do not say how much they do, counted by hand."""

import pytest

from medusa_jax.plan.costs import costs_of
from medusa_jax.plan.parse import parse


# Kernels of splash attention: 16 blocks of 512 x 512, of which a causal mask leaves 4 + 3 + 2 + 1,
# and one that also reaches less than 3 blocks back 3 + 3 + 2 + 1; 2 rows, 8 heads of 128.
@pytest.mark.parametrize(
    ("phase", "table", "products"),
    [
        ("fwd_segmented_residuals", "s8[1,4,4]", 2 * 10),
        ("fwd_segmented_no_residuals", "s8[1,4,3]", 2 * 9),
        ("dq_segmented_no_residuals", "s8[1,4,4]", 3 * 10),
        ("dkv_segmented_no_residuals", "s8[1,4,4]", 4 * 10),
        ("dkv_segmented_no_residuals", "s8[8,3,4]", 4 * 9),
    ],
)
def test_splash_attention(phase, table, products):
    entry = f"""ENTRY %main (t: {table}, q: bf16[2,8,2048,128], k: bf16[2,4,2048,128]) -> f32[8] {{
  %t = {table} parameter(0)
  %q = bf16[2,8,2048,128] parameter(1)
  %k = bf16[2,4,2048,128] parameter(2)
  ROOT %it = bf16[2,8,2048,128] custom-call(%t, %t, %q, %k, %k), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"of several lines"
}}}}, metadata={{op_name="jit(f)/splash_mha_{phase}/splash_mha_{phase}/pallas_call"}}
}}
"""  # noqa: E501
    assert (
        costs_of(parse("HloModule attention\n" + entry)).flops
        == products * 2 * 2 * 8 * 512 * 512 * 128
    )
