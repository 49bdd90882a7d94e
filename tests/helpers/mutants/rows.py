"""Ways to break kernels/rows.py."""

FILE = "rows.py"
TESTS = ["test_kernel_layer_norm.py"]
MUTANTS = [
    (
        "every second number taken for the next",
        "return rows if rows.stride(1) == 1 else rows.contiguous()",
        "return rows",
    ),
    ("unit that does not divide", "math.gcd(16, *strides)", "16"),
]
EQUIVALENT = {}
