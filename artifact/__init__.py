"""The reviewers' side: claims, expected results, comparison, report. It uses privimage, never the
reverse.
"""
