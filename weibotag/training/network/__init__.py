"""The fused tagger's networks: features, shared parts, training. Only `features` is needed to tag."""
