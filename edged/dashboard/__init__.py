"""The page on the node: FastAPI in a process of its own, reading control.sock; never imported by the daemon.

It shows and never changes anything: every route is a GET without effect. It ends when nobody has looked for a
while. `access` (token file, login link) loads no web framework, so command-line tools may import it.
"""
