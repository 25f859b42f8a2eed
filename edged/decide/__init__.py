"""The deciding rooms: values in, values out. No clock, no loop, no operating system, no dice.

`now` (CLOCK_BOOTTIME seconds), budgets and jitter are arguments. What should be done comes back as a tuple of
frozen steps (`steps`), each with `describe()`; `edged.apply` is the only one who carries them out.

    plan         the whole decision; everything below answers one question of it
    admission    which pods may be here: the budget's word (`budget`), and one pod for each port of the machine
    lifecycle    how far a pod has come, and whose turn it is; `keep` turns that into steps, `ending` into ends
    turns        which pods may not begin yet: their time hasn't come, or the hub may have moved them
    pulls, devices, claims, material, services    what pods need around them
    restart, health    when an ended container comes back; what probes make of a running one
    summary, happenings    what is told: the status, and what is news in it
"""
