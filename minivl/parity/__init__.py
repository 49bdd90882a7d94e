"""Parity that explains itself: where two runs of a model part, and which single change would make the difference.

sides        how a side is made: our backends, float64, fewer bits, transformers, another folder, another setting
flow         sides in step, every named activation compared, and the rule of what is the same
suspects     the usual suspects, each tried on the first layer that differs
weights      how one tensor differs from another
report       text, JSON, HTML
difference   minivl.diff
command      minivl diff
"""
