"""The Kubernetes-style REST API."""
