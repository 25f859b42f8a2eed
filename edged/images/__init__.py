"""Images on the node: references, the content-addressed layer store, import. Knows nothing of pods."""
