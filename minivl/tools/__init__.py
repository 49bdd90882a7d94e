"""What the commands do: one room for each tool, and commands.py for those that only ask a model something."""
