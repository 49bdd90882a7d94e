"""From checkpoint files on disk to the tree of arrays that the model functions take."""
