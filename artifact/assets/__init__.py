"""Image sets and weights that claims use, and how they are got."""
