"""Parity that explains itself: where two runs of a model part, and which single change would make the difference.

command      minivl diff
difference   minivl.diff: two sides, what they are given, a report
  sides        from words to sides: "torch", "transformers", a folder, "torch@folder"
    ours         a model of minivl; in float64 it is the judge
    theirs       a model of transformers, watched by hooks
    float64      the judge's arithmetic
    families     which of our models a checkpoint is
    settings     a configuration with some settings changed
  inputs       noise and random words, or a picture and a text; labels
  flow         the sides in step, every named activation compared, and the rule of what is the same
  diagnosis    the first activation that differs: each suspect tried and scored
    suspects/    the usual suspects, one module for each kind of layer
    weights      how one tensor differs from another, in words
  report       text, JSON, HTML
"""
