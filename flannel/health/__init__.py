"""The state of flanneld: collected, and served to operators and monitoring.

awake        notices pauses of this process
status       the state itself: ready or not, dead or not, the document for JSON
pages        the pages, at the unix socket and at -healthz-port; systemd's watchdog
connections  the clients of a server: how many at a time, which one is dropped
http_server  HTTP, on the socket beside subnet.env and on -healthz-port
metrics      /metrics, in Prometheus' format
peer_probe   answers other hosts that ask whether this flanneld runs
"""
