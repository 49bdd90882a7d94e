"""Attention's backward from Triton's tutorial and ours, compiled for sm_90 in one run: their bounds side by side.

    python tests/helpers/tutorial_backward.py 06-fused-attention.py

The file is python/tutorials/06-fused-attention.py of github.com/triton-lang/triton, and no part of this project: fetch
it first. Its kernel is compiled with the block sizes that it launches with. Heads are 64 wide, float16, no mask.

The bound is that of the busiest pipe, summed over the two loops that every pair of a query and a key goes through, in
clocks of a core for one pair; "useful" is the share of the tensor cores' speed left to the five products of the
formula. Both compute two of them twice, so 5/7 is the most. The command fails if ours is more than 10 % behind.
"""

import ast
import os
import runpy
import sys
import tempfile
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
PRODUCTS = 2048  # multiply-adds of float16 that the tensor cores of sm_90 do in a clock
D, ALLOWED = 64, 1.1


def kernels_of(tutorial):
    """The tutorial's backward kernels, without the rest of the file, which wants a GPU."""
    source = Path(tutorial).read_text()
    functions = [x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef) and x.name.startswith("_attn_bwd")]
    lines = source.splitlines()
    texts = ["\n".join(lines[f.decorator_list[0].lineno - 1 : f.end_lineno]) for f in functions]
    alone = Path(tempfile.mkdtemp()) / "tutorial.py"  # the compiler reads a kernel's lines from a file
    alone.write_text("\n\n".join(["import triton\nimport triton.language as tl", *texts]))
    return runpy.run_path(str(alone))


def compile_theirs(kernels, T=1024, H=12):
    from minivl.kernels.checking.compiled import array, compile_call

    x, row = array(2, H, T, D), array(2, H, T, dtype="float32")
    blocks = dict(BLOCK_M1=32, BLOCK_N1=128, BLOCK_M2=128, BLOCK_N2=32, BLK_SLICE_FACTOR=2, HEAD_DIM=D)
    given = x, x, x, 0.125, x, x, x, x, row, row, *x.stride(), H, T
    return compile_call(
        lambda: kernels["_attn_bwd"][(T // 128, 1, 2 * H)](*given, **blocks, num_warps=4, num_stages=5), "sm_90"
    ), (32 * 128, 128 * 32)


def compile_ours():
    from compile_matrix import cases

    from minivl.kernels.checking.compiled import compile_call

    launches = compile_call(cases()["attention backward, CLIP ViT-B"].call, "sm_90")
    blocks = {x["kernel"]: x["constants"] for x in launches}
    pairs = (blocks[name]["BT"] * blocks[name]["BS"] for name in ("keys_kernel", "queries_kernel"))
    return launches, tuple(pairs)


def clocks(launches, pairs):
    """Of a pair, in the loop of dk and dv and in that of dq: those with four and three products of whole blocks."""
    loops = [loop for facts in launches for loop in facts["loops"]]
    total = 0
    for products, of_block in zip((4, 3), pairs, strict=True):
        whole = [loop for loop in loops if loop["multiply-adds"] == products * of_block * D]
        total += min(max(loop["bounds"].values()) for loop in whole) / of_block
    return total


def main(tutorial):
    found = {}
    for name, (launches, pairs) in (("tutorial", compile_theirs(kernels_of(tutorial))), ("ours", compile_ours())):
        found[name] = clocks(launches, pairs)
        print(f"{name:9} {found[name]:.5f} clocks a pair, useful {5 * D / PRODUCTS / found[name]:.1%}")
        for facts in launches:
            print(f"    {facts['kernel']:16}{facts['registers']:>4} registers, {facts['spills']} spills")
    return 0 if found["ours"] <= ALLOWED * found["tutorial"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
