"""Speed: per-image gradients by several engines. Nothing here can weaken the guarantee."""
