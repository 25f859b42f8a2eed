"""The deciding rooms: values in, values out. No clock, no loop, no operating system, no dice.

`now` (CLOCK_BOOTTIME seconds), budgets and jitter are arguments. What should be done comes back as a tuple of
frozen steps (`steps`), each with `describe()`; `edged.apply` is the only one who carries them out.
"""
