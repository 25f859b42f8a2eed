"""The user's language: Kubernetes kinds as strict pydantic models, and compile() into edged.model. Pure."""
