"""The eight stages of the method in their order; the pipeline decides which of them can be
skipped.
"""

from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.moments import MOMENTS
from privimage.privacy.query import QUERY
from privimage.run_folder.run import Stage
from privimage.stages.images import evaluate_images, evaluate_inputs, generate, generate_inputs
from privimage.stages.model import (
    finetune_inputs,
    finetune_model,
    pretrain_inputs,
    pretrain_model,
)
from privimage.stages.moments_and_sketches import ask_moments, moments_inputs
from privimage.stages.semantic import (
    ask_query,
    query_inputs,
    query_network_inputs,
    select,
    selection_inputs,
    train_network,
)

STAGES = (
    Stage("query_network", query_network_inputs, train_network, is_shared=True),
    Stage("query", query_inputs, ask_query, charges=QUERY),
    Stage("moments", moments_inputs, ask_moments, charges=MOMENTS),
    Stage("selection", selection_inputs, select),
    Stage("pretrain", pretrain_inputs, pretrain_model),
    Stage("finetune", finetune_inputs, finetune_model, charges=DP_SGD),
    Stage("generate", generate_inputs, generate),
    Stage("evaluate", evaluate_inputs, evaluate_images),
)
