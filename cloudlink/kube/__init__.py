"""The user's language: Kubernetes kinds as strict pydantic models, and compile() into edged.model. Pure.

What people write comes in through `parse` (schema, defaults, every error at once with its path) and goes out
through `dump`; `compile` turns it into what nodes run, `status` turns what nodes report back into Kubernetes'
words. Models are frozen: a change is `model_copy(update=...)`.

May not: do I/O, read a clock, use randomness, or know of the hub, MQTT or a database.
"""
