"""Settings of a run of seconds on a person's own images, by their dotted names."""

TOY = {
    "query_network.epochs": 1,
    "query_network.widths": [8],
    "query_network.blocks": [1],
    "query_network.batch_size": 512,
    "network.base_channels": 8,
    "network.channel_multipliers": [1],
    "network.attention_resolutions": [],
    "pretrain.num_images": 64,
    "privacy.num_steps": 2,
    "sampling.num_steps": 2,
    "performance.num_threads": 1,
}
