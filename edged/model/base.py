"""What every value of the vocabulary is."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of every struct here: frozen, compared by value, small on the wire. Subclasses repeat `frozen` for mypy."""
