"""The scheduler: pods x nodes -> bindings. Pure."""
