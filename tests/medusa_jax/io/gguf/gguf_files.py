"""Small GGUF files, and the float32 values that their tensors stand for."""

import math

import gguf
import numpy as np

V, D, F, N, K, H = 96, 64, 128, 4, 2, 16
RNG = np.random.default_rng(0)
F32, F16, Q8_0, Q4_1 = (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_1"))


def random_tensor(kind, *shape):
    """(what the file stores, the float32 values it stands for)."""
    if kind in (F32, F16):
        stored = RNG.normal(size=shape).astype(np.float32 if kind == F32 else np.float16)
        return stored, stored.astype(np.float32)
    stored, values = [], []
    for _ in range(math.prod(shape) // 32):
        scale, least = RNG.uniform(0.01, 0.1, 2).astype(np.float16)
        if kind == Q8_0:
            codes = RNG.integers(-127, 128, 32).astype(np.int8)
            stored.append(scale.tobytes() + codes.tobytes())
            values.append(np.float32(scale) * codes)
        else:
            codes = RNG.integers(0, 256, 16).astype(np.uint8)
            stored.append(scale.tobytes() + least.tobytes() + codes.tobytes())
            nibbles = [code & 15 for code in codes] + [code >> 4 for code in codes]
            values.append(np.float32(scale) * np.float32(nibbles) + np.float32(least))
    rows = np.frombuffer(b"".join(stored), np.uint8).reshape(*shape[:-1], -1)
    return rows, np.concatenate(values).astype(np.float32).reshape(shape)


def layer_shapes(layer, bias=False, qk_norm=False, head_dim=H):
    name = f"blk.{layer}."
    shapes = {
        name + "attn_norm.weight": (D,),
        name + "attn_q.weight": (N * head_dim, D),
        name + "attn_k.weight": (K * head_dim, D),
        name + "attn_v.weight": (K * head_dim, D),
        name + "attn_output.weight": (D, N * head_dim),
        name + "ffn_norm.weight": (D,),
        name + "ffn_gate.weight": (F, D),
        name + "ffn_up.weight": (F, D),
        name + "ffn_down.weight": (D, F),
    }
    if bias:
        for leaf, heads in (("q", N), ("k", K), ("v", K)):
            shapes[f"{name}attn_{leaf}.bias"] = (heads * head_dim,)
    if qk_norm:
        shapes |= {f"{name}attn_{leaf}_norm.weight": (head_dim,) for leaf in "qk"}
    return shapes


def all_shapes(tied=True, **layer):
    shapes = {"token_embd.weight": (V, D), "output_norm.weight": (D,)}
    for index in range(2):
        shapes |= layer_shapes(index, **layer)
    return shapes if tied else shapes | {"output.weight": (V, D)}


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path, shapes, kind=F32, architecture="llama", edit=lambda writer: None, fixed=()):
    """Writes a small model; returns name -> float32 values in the order of the file."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_block_count(2)
    writer.add_feed_forward_length(F)
    writer.add_head_count(N)
    writer.add_head_count_kv(K)
    writer.add_layer_norm_rms_eps(1e-5)
    edit(writer)
    values = {}
    for name, shape in shapes.items():
        own_kind = kind if len(shape) == 2 else F32
        stored, values[name] = random_tensor(own_kind, *shape)
        if name in dict(fixed):
            stored = values[name] = dict(fixed)[name]
        writer.add_tensor(name, stored, raw_dtype=own_kind)
    finish(writer)
    return values


def hugging_face_rows(stored, num_heads):
    """Row h, half s, i of Hugging Face is row h, pair i, member s of llama.cpp."""
    size = len(stored) // num_heads
    rows = []
    for head in range(num_heads):
        for half in range(2):
            rows += [stored[head * size + 2 * i + half] for i in range(size // 2)]
    return np.stack(rows)


def leaf(params, name):
    for key in name.split("."):
        params = params[key]
    return np.asarray(params)
