"""The order of things for each command."""
