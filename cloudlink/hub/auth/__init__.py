"""Who may do what at the hub's API.

`users` and `requests` say who asks and for what; `rules`, `rbac` and `policy` decide, as Kubernetes' RBAC does: values
in, values out. `authority` keeps the decision up to date from the store; `tokens`, `accounts`, `certificates` and
`authenticate` tell who it is; `audit` writes down what came of it. Nothing here knows HTTP: that is `api.gate`.
"""
