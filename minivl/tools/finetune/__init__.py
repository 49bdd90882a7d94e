"""`minivl finetune`: teach the Q-Former of a frozen BLIP-2 one's own pictures. How to use it: README.md beside this."""
