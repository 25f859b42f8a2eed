"""Images on the node: references, the content-addressed layer store, import, pull. Knows nothing of pods.

The resident daemon imports `store` (and with it `reference` and `oci`) and only asks `ImageStore.resolve`. All that
writes (`importer`, `pull`, `unpack`, `writer`, ...) runs in a process of its own that ends: `python -m edged.images`.
"""
