import base64

from artifact.judging.epsilons import Line
from artifact.report.figures import curves_uri, epsilons_uri

LOSSES = [{"stage": "pretrain", "step": s, "loss": 1 / s} for s in (1, 2, 3)]
NORMS = [{"stage": "finetune", "step": s, "noisy_gradient_norm": 2.0} for s in (1, 2)]


def test_curves_show_a_panel_for_each_stage_that_reported():
    uri = curves_uri({"good": LOSSES + NORMS, "plain": NORMS})
    assert uri is not None
    svg = base64.b64decode(uri.split(",", 1)[1]).decode()
    assert svg.count('id="axes_') == 2
    assert 'id="legend_1"' in svg
    assert curves_uri({"good": []}) is None


def test_results_over_epsilon_have_a_panel_each_and_the_paper_once_in_the_legend():
    points = ((1.0, 60.0, 0.5), (10.0, 66.0, 0.0))
    paper = Line("the paper", points, is_paper=True)
    accuracies = [Line("CNN accuracy", points), paper, Line("MLP accuracy", points), paper]
    uri = epsilons_uri({"Accuracy": accuracies, "FID": [Line("FID", points)]})
    assert uri is not None
    svg = base64.b64decode(uri.split(",", 1)[1]).decode()
    assert svg.count('id="axes_') == 2
    assert svg.count("<!-- the paper -->") == 1
    assert svg.count('id="legend_') == 1
    assert epsilons_uri({}) is None
