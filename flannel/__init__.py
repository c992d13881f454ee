"""flannel: an overlay network for hosts and their containers, agreed on through etcd."""

__version__ = "0.1.0"
