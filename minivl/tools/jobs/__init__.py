"""Long jobs: one question put to many pictures, each answer a line of a file.

    minivl caption FOLDER --out captions.jsonl --batch 8 --resume

The flow, in the order in which a picture meets it:

    items.py     which pictures there are, in folders, tar shards (tars.py) and files of questions, and one's share
    flow.py      reads a batch ahead of the model, asks the model, hands on one record for each picture, in order
    work.py      what each command asks, with the models of models.py
    records.py   the file of records: only ever longer by whole lines, and gone on with where it ends
    progress.py  how far it is

A job that was killed and is resumed ends with the same bytes as one that was not: the pictures, the settings and the
checkpoint are written down beside the file (captions.jsonl.job) and compared, and the batches are cut at the same
places again. At no moment are more than two batches of pictures in memory, only the names of all.
"""
