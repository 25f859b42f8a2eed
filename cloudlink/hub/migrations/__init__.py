"""How the hub's tables came to be what they are: Alembic's steps, one for each schema. Each writes its own number into
`counters`, so that an older hub can tell that it must not touch them."""
