"""Networks that read posts. These are architectures, not checkpoints: each is trained on the user's own posts."""
