"""The kernel workbench: list, step through, check, inspect and compare kernels, without a GPU.

    minivl kernels list
    minivl kernels check mine.py:attention --as attention
    minivl kernels inspect attention --target sm_90 --html page.html

What a kernel computes is tried in Triton's interpreter, what the compiler makes of it is read from machine code. No
kernel is timed here unless there is a GPU, and then only by `--time`.
"""
