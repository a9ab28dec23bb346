"""`croissant.json`: what the exported images are, in the Croissant format that data set search and
loaders read (Croissant 1.0 of MLCommons, with its vocabulary for responsible AI).

Public: it says what the privacy statement and the class folders say, and nothing else.
"""

import json
from pathlib import Path
from typing import Any

from privimage.files.durable import write_json_durably
from privimage.files.plain_files import inside, read_bounded

CROISSANT = "croissant.json"
MLCOMMONS = "http://mlcommons.org/croissant"
# of the vocabulary, those that are called the same here
TERMS = """
    citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes
    isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
    samplingRate separator source subField transform
"""
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": f"{MLCOMMONS}/",
    "rai": f"{MLCOMMONS}/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
}
PAPER = (
    "Li et al.: PrivImage: Differentially Private Synthetic Image Generation using Diffusion "
    "Models with Semantic-Aware Pretraining. USENIX Security 2024."
)


def write_croissant(folder: Path) -> None:
    """Describe the `images/` of a run, beside them; the privacy statement must be there."""
    statement = json.loads(read_bounded(inside(folder, "privacy_statement.json")))
    write_json_durably(folder / CROISSANT, described(statement))


def described(statement: dict[str, Any]) -> dict[str, Any]:
    """The document, from the privacy statement of the run."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [f"{MLCOMMONS}/1.0", f"{MLCOMMONS}/RAI/1.0"],
        "name": "privimage-synthetic-images",
        "description": "Synthetic images, made by PrivImage from images that stay private, with a "
        "label for each. " + promise(statement),
        "version": "1.0.0",
        "citeAs": PAPER,
        "rai:dataCollection": "No image was collected: all were drawn from a diffusion model that "
        "was fine-tuned on private images with DP-SGD.",
        "rai:dataCollectionType": "Synthetic",
        "rai:personalSensitiveInformation": promise(statement),
        "rai:dataUseCases": "Developing and testing software, teaching, training and comparing "
        "classifiers where the real images cannot be shown. Not for decisions about persons, and "
        "no evidence of what the private images show.",
        "rai:dataLimitations": " ".join(statement["not_covered"]),
        "rai:dataBiases": "Classes are equally frequent, whatever they are among the private "
        "images; what is rare within a class is under-represented, for noise hides it.",
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": "images",
                "encodingFormat": "image/png",
                "includes": "images/*/*.png",
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "labelled", "field": fields()}],
    }


def fields() -> list[dict[str, Any]]:
    """The image, and its label: the name of the folder in which it lies."""
    image = {"fileProperty": "content"}
    label = {"fileProperty": "fullpath"}
    return [
        {
            "@type": "cr:Field",
            "@id": "labelled/image",
            "dataType": "sc:ImageObject",
            "source": {"fileSet": {"@id": "images"}, "extract": image},
        },
        {
            "@type": "cr:Field",
            "@id": "labelled/label",
            "dataType": "sc:Text",
            "source": {
                "fileSet": {"@id": "images"},
                "extract": label,
                "transform": {"regex": "images/([^/]*)/[^/]*$"},
            },
        },
    ]


def promise(statement: dict[str, Any]) -> str:
    """What holds, in a sentence."""
    if not statement["guarantee"]:
        return "NO GUARANTEE of privacy holds for them."
    target = statement["target"]
    return (
        f"They are ({target['epsilon']:g}, {target['delta']:g})-differentially private for adding "
        f"or removing {statement['unit']}; privacy_statement.md has the whole."
    )
