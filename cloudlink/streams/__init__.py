"""Conversations between hub and node over MQTT: what travels, who may read it, and how much may be under way.

    keys    one opening and one answer -> two keys that only this hub and this node know (pure)
    frames  frames <-> bytes, sealed and counted (pure)
    flow    how much one side may send before the other has taken it (pure)
    line    one end of a conversation in a running loop: the same for both sides
    answering   the node's end: openings -> lines -> what the daemon does about them

The broker is not trusted: it can delay, drop, and see how much travels when; it can't read, make up, repeat or reorder
anything. May not know what the requests mean, nor who is allowed to ask. docs/conversations.md
"""
