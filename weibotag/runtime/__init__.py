"""Where parts run; they know nothing of what a part does."""
