"""The hub: takes manifests, decides who runs what, and keeps the fleet's state."""
