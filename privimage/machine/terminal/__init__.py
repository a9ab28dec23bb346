"""What a command shows on a terminal: errors, progress, plain text."""
