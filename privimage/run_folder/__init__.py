"""One run and its folder: lock, manifests, checkpoints, private files, account, donors, log."""
