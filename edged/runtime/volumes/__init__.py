"""Volumes of a pod: made, filled, kept up to date, and shown to its containers.

    pod.py      one pod's volumes, and where its containers see them
    content.py  what files a config, secret, downward or projected volume has (pure)
    files.py    a folder of files that changes all at once
    owner.py    giving a volume to the pod's fs_group
    hostpath.py, subpath.py   checks of paths that the pod names

It decides nothing about when: edged.runtime.sandboxes asks. It never deletes a persistent volume; that is
edged.runtime.claims' alone.
"""

from edged.runtime.volumes.pod import ClaimStore, ContainerMounts, ScratchQuota, Volumes

__all__ = ["ClaimStore", "ContainerMounts", "ScratchQuota", "Volumes"]
