"""One module a schema, oldest first. Never changed once released: databases have been through them."""
