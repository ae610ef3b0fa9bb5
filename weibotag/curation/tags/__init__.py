"""Tags and labels: what is wrong with them, and putting it right."""
