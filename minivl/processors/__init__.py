"""From pictures and text to the arrays that a model reads, and from the ids that it writes back to text."""
