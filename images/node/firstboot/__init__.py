"""What a flashed card does at its first boot, and whenever somebody puts an edged.toml on its boot partition.

    settings   edged.toml's bytes -> Settings, or Problems for a person         pure
    plan       (settings, facts) -> frozen steps                                pure
    facts      looks at the board, changes nothing
    apply      the only one that changes anything: one step after the other, each durable before the next
    joining    a try's outcome -> what to do next (pure), and the loop around it

Standard library only: it runs with the system's python3, before any version of edged does.
"""
