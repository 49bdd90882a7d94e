"""Ways to break kernels/activations.py."""

FILE = "activations.py"
TESTS = ["test_kernel_activations.py"]
MUTANTS = [
    ("gelu: the bell left out", "* 0.7071067811865476)) + x * bell", "* 0.7071067811865476))"),
    ("gelu: the bell too wide", "tl.exp(-0.5 * x * x)", "tl.exp(-0.25 * x * x)"),
    ("gelu: half of it missing", "d = 0.5 * (1 + tl.erf(", "d = 0.5 * (tl.erf("),
    ("gelu_tanh: slope of u without the cube", "(1 + 0.134145 * x * x)", "1"),
    (
        "gelu_tanh: the cube's slope not tripled",
        "1.5957691216057308 * (1 + 0.134145",
        "1.5957691216057308 * (1 + 0.044715",
    ),
    ("gelu_tanh: σ' without 1 - σ", "d = s + x * (s * (1 - s)) * (1.59", "d = s + x * s * (1.59"),
    ("quick_gelu: slope of u left out", "d = s + 1.702 * x", "d = s + x"),
    ("quick_gelu: σ of x", "s = sigmoid(1.702 * x)", "s = sigmoid(x)"),
    ("silu: σ alone", "s = sigmoid(x)\n        d = s + x * (s * (1 - s))", "s = sigmoid(x)\n        d = s"),
    ("relu: 1 at 0", "tl.where(x <= 0, 0.0, 1.0)", "tl.where(x < 0, 0.0, 1.0)"),
    ("relu: everything through", "tl.where(x <= 0, 0.0, 1.0)", "x * 0 + 1.0"),
    ("tanh: a quarter", "d = 4 * (s * (1 - s))", "d = s * (1 - s)"),
    ("tanh: σ of x", "s = sigmoid(2 * x)", "s = sigmoid(x)"),
    ("dy left out", "(dy * slope(x, act))", "(slope(x, act))"),
    ("dy and x swapped", "(dy * slope(x, act))", "(x * slope(dy, act))"),
    ("a number too many", "DX.dtype.element_ty), i < count)", "DX.dtype.element_ty), i <= count)"),
    ("dy read as if contiguous", "(dout.contiguous(), x.contiguous()", "(dout, x.contiguous()"),
    ("x read as if contiguous", "(dout.contiguous(), x.contiguous()", "(dout.contiguous(), x"),
    ("shapes not compared", "    if tuple(dout.shape) != tuple(x.shape):", "    if False:"),
]
EQUIVALENT = {}
