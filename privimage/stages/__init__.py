"""The seven stages of the method in their order; the pipeline decides which of them can be
skipped.
"""

from privimage.semantics.query import QUERY
from privimage.stages.images import evaluate_images, evaluate_inputs, generate, generate_inputs
from privimage.stages.model import (
    finetune_inputs,
    finetune_model,
    num_parameters,
    pretrain_inputs,
    pretrain_model,
)
from privimage.stages.run import ImageSets, Run, Stage
from privimage.stages.semantic import (
    ask_query,
    query_inputs,
    query_network_inputs,
    select,
    selection_inputs,
    train_network,
)
from privimage.training.finetune import DP_SGD

STAGES = (
    Stage("query_network", query_network_inputs, train_network, is_shared=True),
    Stage("query", query_inputs, ask_query, charges=QUERY),
    Stage("selection", selection_inputs, select),
    Stage("pretrain", pretrain_inputs, pretrain_model),
    Stage("finetune", finetune_inputs, finetune_model, charges=DP_SGD),
    Stage("generate", generate_inputs, generate),
    Stage("evaluate", evaluate_inputs, evaluate_images),
)

__all__ = ["STAGES", "ImageSets", "Run", "Stage", "num_parameters"]
