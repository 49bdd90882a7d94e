"""`minivl bench`: how fast the models are here, beside transformers and beside what the machine can do at all.

command.py     what was asked for; each group of rows runs in a process of its own
rows.py        the rows, and the memory that each needs
clock.py       sides that take turns, and whose outputs must agree
vision.py  language.py  towers.py  demo.py  processes.py  sweep.py      the rows' work
weights.py  sizes.py    random weights of real sizes, the same ones for every side
machine.py     the processor, free memory, and the limits: large products, reading memory
results.py     the JSON, and the arithmetic from raw times to medians, ratios and shares
child.py  others.py  ours.py  theirs.py  status.py    the processes that measure, and what surrounds them
report.py  picture.py   tables and the plot, both from the JSON alone
results.json   the run that README's figures come from
"""
