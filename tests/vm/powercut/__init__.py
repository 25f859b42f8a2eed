"""Boards that lose power at any moment: the cut, what a card makes of it, and what is found after the next boot.

blocklog    what a card with a volatile cache keeps of the writes it was given (pure but for reading files)
board       a machine whose disk keeps such a log, with a network that can be pulled out and a line of our own
home        the hub and the registry on the host, and what the node has acknowledged to them
deeds       what is going on when the power goes
findings    what must be true after the boot, looked for from inside
campaign    the plan (from a seed), the loop, and the table
"""
