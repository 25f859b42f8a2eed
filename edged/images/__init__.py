"""Images on the node: references, the content-addressed layer store, import, pull, verification. Knows nothing of pods.

The resident daemon imports `store` (and with it `reference` and `oci`), and what edged.puller needs to start workers:
`cage`, `settings`, `boots`. All that writes images (`importer`, `pull`, `unpack`, `writer`, `verify`, ...) runs in a
process of its own that ends: `python -m edged.images`.
"""
