"""Files to RGB frames."""
