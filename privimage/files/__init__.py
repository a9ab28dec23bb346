"""Files as everybody uses them: written in one step and durably, read without following links."""
