"""What flanneld knows of itself, and how it is served.

awake        notices pauses of this process
status       the document behind /status and /healthz
pages        which page is served to whom
connections  the clients of a server, of which there may be too many
http_server  HTTP, on the socket beside subnet.env and on -healthz-port
metrics      /metrics, in Prometheus' format
peer_probe   answers other hosts that this flanneld runs
"""
