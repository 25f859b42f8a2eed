"""What kubectl and client libraries speak once a connection has been upgraded, and how it meets a conversation with a
node (`cloudlink.hub.remote`).

    spdy, websocket       frames <-> bytes; spdy is pure
    sessions              SPDY's streams over anything that carries bytes (a connection, a WebSocket)
    terminals, forwards   exec/attach and port-forward: channels on this side, one conversation (or many) on the other

Knows neither HTTP requests nor who may do what nor the store: `cloudlink.hub.api` sees to those, then opens the door.
"""
