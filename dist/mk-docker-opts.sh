#!/bin/sh
# The name that upstream's script has, for units and images that call it.
exec mk-docker-opts "$@"
