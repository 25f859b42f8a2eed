"""The only rooms that touch the kernel: namespaces, cgroups, mounts, conmon and crun.

They do what they are told and report what they see; nothing here decides whether a pod should run.
`api.Runtime` is the door; `pods.PodRuntime` is the real one, `tests/fakes/runtime.py` the fake, and one
contract suite passes on both.
"""
