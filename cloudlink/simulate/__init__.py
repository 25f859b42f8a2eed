"""A fleet that isn't there, on the real wire: many nodes in one process, for trying a hub out at its full size.

    boards (what a node is, drawn from a seed) < machine (what runs on it: edged's own deciders over a fake runtime)
        < fleet (each machine behind the real link: certificate, MQTT over TLS, signed documents) < joining

What is real: enrolment, the link with its last will, every check of a document, how edged plans and what it says of it.
What is not: nothing is run, nothing is pulled, and delays, crashes, hangs and memory are dice. In virtual time and
without a wire, the hub's decisions are tried by tests/simulation.
"""
