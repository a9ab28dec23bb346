"""The toy claim and its records, as the artifact's own tests have them."""

from tests.artifact.conftest import record, toy, toy_document

__all__ = ["record", "toy", "toy_document"]
